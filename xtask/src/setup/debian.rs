//! The toolchain from Debian packages, unpacked into a folder: rustc with its library sources, LLVM, bpf-linker.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{SETUP_VERSION, Toolchain, other_ways};
use crate::shell::{cargo, on_path, run_quiet, step};

const LINKER_VERSION: &str = "0.13.0";
const RUST_PACKAGES: [&str; 5] =
    ["rustc-web", "cargo-web", "rust-web-src", "libstd-rust-web-dev", "libc6-dev"];

/// A private corner of apt: own lists, own downloads, the system's state only read.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    pub fn new(folder: &Path) -> Result<Self> {
        for program in ["apt-get", "dpkg"] {
            if on_path(program).is_none() {
                bail!("{program} is missing; {}", other_ways());
            }
        }
        let folder = folder.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Self { folder })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        for (option, part) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
            command.arg("-o").arg(format!("{option}={}", self.folder.join(part).display()));
        }
        command.args(["-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=", "-q", "-y"]);
        command
    }

    /// Fetches the package lists, unless an earlier run did.
    pub fn update(&self) -> Result<()> {
        let filled = fs::read_dir(self.folder.join("lists"))?.flatten().any(|entry| entry.path().is_file());
        if filled {
            return Ok(());
        }
        step("package lists", || {
            run_quiet(self.command().args(["-o", "APT::Update::Error-Mode=any", "update"]))
                .with_context(|| format!("the package archive is out of reach; {}", other_ways()))
        })
        .map(drop)
    }

    /// Unpacks `packages`, and what they need that the system lacks, into `root`.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let archives = self.folder.join("cache/archives");
        run_quiet(
            self.command()
                .args(["--download-only", "--reinstall", "--no-install-recommends", "install"])
                .args(packages),
        )
        .with_context(|| format!("cannot download {}; {}", packages.join(", "), other_ways()))?;
        for entry in fs::read_dir(&archives)?.flatten() {
            let file = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".deb") {
                continue;
            }
            // The C library has to match the system's loader: never shadow it from the folder.
            if !name.starts_with("libc6") && !name.starts_with("libc-") {
                run_quiet(Command::new("dpkg").arg("-x").arg(&file).arg(root))?;
            }
            fs::remove_file(&file)?;
        }
        Ok(())
    }
}

/// Folders of `root` that hold shared libraries, as a search path.
pub fn library_path(root: &Path) -> String {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = [format!("usr/lib/{multiarch}"), format!("lib/{multiarch}"), "usr/lib".to_owned()];
    folders.map(|folder| root.join(folder).display().to_string()).join(":")
}

/// Unpacks the compiler, builds the linker against the same LLVM, says how to call both.
pub fn install(folder: &Path) -> Result<Toolchain> {
    let apt = Apt::new(folder)?;
    let root = folder.join("root");
    fs::create_dir_all(&root)?;
    apt.update()?;
    step("Rust compiler with library sources (Debian packages)", || {
        apt.unpack(&RUST_PACKAGES.map(str::to_owned), &root)
    })?;
    let llvm = llvm_version(&root)?;
    step(&format!("LLVM {llvm} (Debian packages)"), || {
        let packages = [format!("llvm-{llvm}-dev"), format!("llvm-{llvm}"), format!("libllvm{llvm}")];
        apt.unpack(&packages, &root)
    })?;
    let linker = folder.join("bin/bpf-linker");
    step(&format!("bpf-linker {LINKER_VERSION} (built from source, one to two minutes)"), || {
        build_linker(folder, &root, &llvm)
    })?;
    let rustc = root.join("usr/bin/rustc");
    Ok(Toolchain {
        version: SETUP_VERSION,
        origin: format!("Debian packages in {}, bpf-linker {LINKER_VERSION}", folder.display()),
        cargo: root.join("usr/bin/cargo"),
        cargo_args: Vec::new(),
        envs: BTreeMap::from([
            ("RUSTC".to_owned(), rustc.display().to_string()),
            // -Z build-std, on a compiler of the stable channel.
            ("RUSTC_BOOTSTRAP".to_owned(), "1".to_owned()),
            ("LD_LIBRARY_PATH".to_owned(), library_path(&root)),
        ]),
        files: vec![rustc, root.join("usr/bin/cargo"), linker],
        bin: Some(folder.join("bin")),
        tools: Default::default(),
    })
}

/// The major version of the LLVM that the unpacked rustc emits bitcode for.
fn llvm_version(root: &Path) -> Result<String> {
    let rustc = root.join("usr/bin/rustc");
    let text = run_quiet(Command::new(&rustc).arg("-vV").env("LD_LIBRARY_PATH", library_path(root)))?;
    let line = text.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = line.and_then(|version| version.split('.').next());
    Ok(major.context("rustc -vV names no LLVM version")?.to_owned())
}

fn build_linker(folder: &Path, root: &Path, llvm: &str) -> Result<()> {
    let libraries = library_path(root);
    let search: Vec<String> = libraries.split(':').map(|folder| format!("-L native={folder}")).collect();
    let target = folder.join("linker-build");
    run_quiet(
        cargo()
            .args(["install", &format!("bpf-linker@{LINKER_VERSION}"), "--locked", "--force"])
            .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
            .arg("--root")
            .arg(folder)
            .arg("--target-dir")
            .arg(&target)
            .env("LLVM_PREFIX", root.join(format!("usr/lib/llvm-{llvm}")))
            .env("LD_LIBRARY_PATH", &libraries)
            .env("RUSTFLAGS", search.join(" "))
            .env_remove("CARGO_ENCODED_RUSTFLAGS"),
    )
    .context("cannot build bpf-linker; it needs a C compiler and the crates registry")?;
    let _gone_or_harmless = fs::remove_dir_all(&target);
    Ok(())
}
