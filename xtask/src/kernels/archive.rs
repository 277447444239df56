//! Kernels from Debian's archive: each suite has an own corner of apt, and what it downloads is unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::shell::{run_quiet, step};

/// A suite of Debian, and which kernel it has.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// Where the kernel stays one, its version.
    pub version: Option<&'static str>,
    name: &'static str,
    is_security: bool,
    /// It may be gone, or have moved on: a run goes on without it.
    pub optional: bool,
}

const fn suite(
    version: Option<&'static str>,
    name: &'static str,
    is_security: bool,
    optional: bool,
) -> Suite {
    Suite { version, name, is_security, optional }
}

/// Oldest first.
pub const SUITES: [Suite; 5] = [
    suite(Some("5.10"), "bullseye-security", true, true),
    suite(Some("6.1"), "bookworm-security", true, false),
    suite(Some("6.12"), "trixie-security", true, false),
    suite(None, "sid", false, false),
    suite(None, "trixie-backports", false, true),
];

const META: &str = "linux-image-cloud-amd64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Archives fail now and then; a run must not.
const ATTEMPTS: u32 = 3;

/// An unpacked kernel. Kept in `kernel.json` beside it.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct Kernel {
    /// Such as `6.12`.
    pub version: String,
    /// Such as `6.12.117+deb13-cloud-amd64`.
    pub release: String,
    /// The image to boot.
    pub image: PathBuf,
    /// The folder of its modules.
    pub modules: PathBuf,
}

/// Gets the suite's kernel into `folder`, unless it is there.
pub fn fetch(suite: &Suite, folder: &Path) -> Result<Kernel> {
    let folder = folder.join("kernels").join(suite.name);
    let ready = folder.join("kernel.json");
    if let Ok(text) = fs::read_to_string(&ready)
        && let Ok(kernel) = serde_json::from_str::<Kernel>(&text)
        && kernel.image.is_file()
    {
        return Ok(kernel);
    }
    let kernel = step(&format!("kernel of {} (Debian packages)", suite.name), || {
        persistently(|| unpack(suite, &folder)).context("see `cargo xtask test --help` for runs without it")
    })?;
    fs::write(&ready, serde_json::to_string_pretty(&kernel)?)?;
    Ok(kernel)
}

fn persistently<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match work() {
            Err(error) if attempt < ATTEMPTS => {
                eprintln!("    attempt {attempt} failed, another follows: {error:#}");
                sleep(Duration::from_secs(10));
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn unpack(suite: &Suite, folder: &Path) -> Result<Kernel> {
    let _gone_or_harmless = fs::remove_dir_all(folder);
    let (root, packages) = (folder.join("root"), folder.join("packages"));
    for part in ["lists/partial", "cache/archives/partial", "packages", "root"] {
        fs::create_dir_all(folder.join(part))
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let key = if Path::new(KEYRING).is_file() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    let uri = archive(suite.is_security)?;
    fs::write(folder.join("sources.list"), format!("deb {key}{uri} {} main\n", suite.name))?;
    // Nothing counts as installed: packages are asked for by name.
    fs::write(folder.join("status"), "")?;
    run_quiet(apt(folder, "apt-get").args(["-o", "APT::Update::Error-Mode=any", "update"]))?;
    let mut wanted = vec![META.to_owned()];
    let mut next = 0;
    while let Some(name) = wanted.get(next) {
        for part in parts(&run_quiet(apt(folder, "apt-cache").args(["show", name]))?) {
            if !wanted.contains(&part) {
                wanted.push(part);
            }
        }
        next += 1;
    }
    run_quiet(apt(folder, "apt-get").arg("download").args(&wanted[1..]).current_dir(&packages))?;
    for entry in fs::read_dir(&packages)?.flatten() {
        run_quiet(Command::new("dpkg").arg("-x").arg(entry.path()).arg(&root))?;
    }
    let kernel = find(&root)?;
    for part in ["lists", "cache", "packages"] {
        fs::remove_dir_all(folder.join(part))?;
    }
    match suite.version {
        Some(version) if version != kernel.version => {
            bail!("{} has kernel {} now, not {version}", suite.name, kernel.release)
        }
        _ => Ok(kernel),
    }
}

fn apt(folder: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8");
    for (option, part) in [
        ("Dir::State::Lists", "lists"),
        ("Dir::Cache", "cache"),
        ("Dir::Etc::SourceList", "sources.list"),
        ("Dir::State::Status", "status"),
    ] {
        command.arg("-o").arg(format!("{option}={}", folder.join(part).display()));
    }
    for option in [
        "Dir::Etc::SourceParts=/dev/null",
        "Debug::NoLocking=true",
        "APT::Sandbox::User=",
        "Acquire::Languages=none",
        "Acquire::Retries=3",
    ] {
        command.args(["-o", option]);
    }
    command.arg("-q");
    command
}

/// Where this machine gets Debian's packages from, or the fixes to them.
fn archive(security: bool) -> Result<String> {
    let format = "$(ORIGIN) $(REPO_URI) $(RELEASE)";
    let text = run_quiet(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    let of_debian = |line: &str| {
        let mut words = line.strip_prefix("Debian ").unwrap_or(line).split_whitespace();
        let (uri, release) = (words.next()?, words.next()?);
        let fixes = release.ends_with("-security");
        (fixes == security && uri.contains("debian")).then(|| uri.to_owned())
    };
    let what = if security { "security archive" } else { "archive" };
    text.lines()
        .find_map(of_debian)
        .with_context(|| format!("apt knows no {what} of Debian on this machine; add it to /etc/apt"))
}

/// The packages with parts of a kernel that a package's record asks for.
fn parts(record: &str) -> Vec<String> {
    let depends =
        record.lines().filter_map(|line| line.strip_prefix("Depends: ")).flat_map(|line| line.split(','));
    let names = depends.filter_map(|text| text.split(['|', '(']).next()).map(|name| name.trim().to_owned());
    let is_part = |name: &String| {
        ["linux-image-", "linux-binary-", "linux-modules-"].iter().any(|prefix| name.starts_with(prefix))
    };
    names.filter(is_part).collect()
}

/// The kernel below `root`: newer packages have the image beside the modules.
fn find(root: &Path) -> Result<Kernel> {
    let folders = ["usr/lib/modules", "lib/modules"].map(|folder| root.join(folder));
    let modules = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let modules = modules.map(|entry| entry.path()).next().context("the packages have no modules")?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let images = [modules.join("vmlinuz"), root.join("boot").join(format!("vmlinuz-{release}"))];
    let image = images.into_iter().find(|image| image.is_file()).context("the packages have no image")?;
    let version: Vec<&str> = release.split(['.', '-', '+']).take(2).collect();
    Ok(Kernel { version: version.join("."), release: release.clone(), image, modules })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_kernel_are_asked_for_by_name() {
        let record = "Package: linux-image-7.2-cloud-amd64\nDepends: dracut | linux-initramfs-tool, \
                      linux-base-7.2-cloud-amd64 (= 7.2-1), linux-binary-7.2-cloud-amd64 (= 7.2-1), \
                      linux-modules-7.2-cloud-amd64 (= 7.2-1)\n";
        assert_eq!(parts(record), ["linux-binary-7.2-cloud-amd64", "linux-modules-7.2-cloud-amd64"]);
    }
}
