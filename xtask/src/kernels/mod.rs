//! `cargo xtask test --kernels`: the core of the tests on Debian's kernels, in an emulated machine.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    build,
    setup::{self, Toolchain},
    shell::{on_path, step},
    test::binaries,
};

mod archive;
mod guest;
mod image;
mod machine;
mod modules;
mod report;
mod table;

use archive::{Kernel, SUITES, fetch};
pub use guest::PROGRAMS;
use guest::{STEPS, Step};
use image::Image;
use machine::{Emulator, boot};
pub use report::{Outcome, verified};

/// The oldest kernel that we run on; older ones are to be refused with a reason.
const OLDEST: (u32, u32) = (5, 18);
/// Programs of this machine that worlds run.
const TOOLS: [&str; 7] = ["dash", "ip", "tc", "nsenter", "setpriv", "ethtool", "ping"];

/// Which kernels and steps.
#[derive(Debug, Default)]
pub struct Choice {
    /// Versions such as 6.1; all if empty.
    pub versions: Vec<String>,
    /// Words of the rows to try; all if empty.
    pub rows: Vec<String>,
    /// Puts each outcome into README's table.
    pub write: bool,
}

/// Boots each kernel and runs the steps. What failed is in the outcomes; an error is something that kept us from trying.
pub fn run(toolchain: &Toolchain, choice: &Choice) -> Result<Vec<Outcome>> {
    let folder = setup::folder();
    let emulator = Emulator::ensure(&folder)?;
    let kernels = kernels(choice, &folder)?;
    let binary = build::all(toolchain, false)?;
    let is_wanted = |step: &Step| {
        choice.rows.is_empty() || choice.rows.iter().any(|word| step.name.contains(word.as_str()))
    };
    let steps: Vec<Step> = STEPS.into_iter().filter(is_wanted).collect();
    if steps.is_empty() {
        bail!("no row has a word of {:?} in its name: see the table of kernels in README.md", choice.rows);
    }
    let tests = if steps.iter().all(|step| step.test.is_none()) { BTreeMap::new() } else { tests()? };
    let base = step("image", || base(toolchain, &emulator, &binary, &steps, &tests))?;
    let lab = &Lab { emulator, base, steps, tests, folder };
    let mut outcomes = Vec::new();
    // An emulated machine has one CPU.
    for pair in kernels.chunks(2) {
        let results = std::thread::scope(|scope| {
            let threads: Vec<_> = pair.iter().map(|kernel| scope.spawn(|| lab.try_kernel(kernel))).collect();
            threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
        });
        for result in results {
            let outcome = result.map_err(|_| anyhow!("the thread of a kernel panicked"))??;
            if choice.write {
                table::write(std::slice::from_ref(&outcome))?;
            }
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

/// What all kernels are tried with.
struct Lab {
    emulator: Emulator,
    base: Vec<u8>,
    steps: Vec<Step>,
    tests: BTreeMap<String, PathBuf>,
    folder: PathBuf,
}

fn kernels(choice: &Choice, folder: &Path) -> Result<Vec<Kernel>> {
    let wanted =
        |version: &str| choice.versions.is_empty() || choice.versions.iter().any(|one| one == version);
    let mut kernels: Vec<Kernel> = Vec::new();
    // A suite that moves on is looked into only if no other has what is wanted.
    let fixed = |one: &String| SUITES.iter().any(|suite| suite.version == Some(one));
    let is_fixed = !choice.versions.is_empty() && choice.versions.iter().all(fixed);
    for suite in SUITES {
        if suite.version.map_or(is_fixed, |version| !wanted(version)) {
            continue;
        }
        match fetch(&suite, folder) {
            Ok(kernel) if wanted(&kernel.version) => kernels.push(kernel),
            Ok(_) => {}
            Err(error) if suite.optional => eprintln!("  not tried: {error:#}"),
            Err(error) => return Err(error),
        }
    }
    for version in &choice.versions {
        if !kernels.iter().any(|kernel| kernel.version == *version) {
            bail!("no suite of Debian has a kernel {version} that could be fetched");
        }
    }
    Ok(kernels)
}

/// The tests' binaries: name of the file of tests → binary.
fn tests() -> Result<BTreeMap<String, PathBuf>> {
    Ok(binaries::build()?.into_iter().map(|binary| (binary.name, binary.file)).collect())
}

/// The part of the root that is the same for each kernel.
fn base(
    toolchain: &Toolchain,
    emulator: &Emulator,
    binary: &Path,
    steps: &[Step],
    tests: &BTreeMap<String, PathBuf>,
) -> Result<Vec<u8>> {
    let mut image = Image::default();
    for folder in ["dev", "proc", "sys", "tmp", "run", "etc", "root", "bin", "lib", "modules", "var"] {
        image.folder(Path::new(folder));
    }
    image.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n");
    image.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n");
    image.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");
    image.program(&emulator.busybox(), None)?;
    for name in TOOLS {
        let (file, libraries) = match toolchain.tool(name) {
            Some((file, libraries)) => (file.to_owned(), libraries.map(OsStr::new)),
            None => (on_path(name).with_context(|| format!("{name} is missing on this machine"))?, None),
        };
        image.program(&file, libraries)?;
    }
    // What worlds run besides is in busybox.
    image.file("bin/cat", b"#!/bin/sh\nexec busybox cat \"$@\"\n");
    // Metrics are asked for by `curl -s URL`.
    image.file("bin/curl", b"#!/bin/sh\nexec busybox wget -q -O - \"$2\"\n");
    image.file("bin/sh", &fs::read(on_path("dash").context("dash is missing on this machine")?)?);
    image.program(binary, None)?;
    if !tests.is_empty() {
        image.program(&binary.with_file_name("sluice-peer"), None)?;
    }
    let mut names: Vec<&str> = steps.iter().filter_map(|step| Some(step.test?.0)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let file = tests.get(name).with_context(|| format!("there is no file of tests {name}"))?;
        image.program(file, None)?;
    }
    Ok(image.finish())
}

impl Lab {
    fn try_kernel(&self, kernel: &Kernel) -> Result<Outcome> {
        let start = Instant::now();
        let number = |text: &str| text.parse::<u32>().unwrap_or(0);
        let (major, minor) = kernel.version.split_once('.').unwrap_or((&kernel.version, "0"));
        let is_too_old = (number(major), number(minor)) < OLDEST;
        let refused = [Step { name: "refused, with a reason", test: None }];
        let steps = if is_too_old { &refused[..] } else { &self.steps };
        let file = self.folder.join(format!("guest-{}-{}.cpio", kernel.version, std::process::id()));
        let own = self.own_part(kernel, steps, is_too_old)?;
        fs::write(&file, [&self.base[..], &own].concat())
            .with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("  … kernel {}", kernel.release);
        let result = boot(&self.emulator, &kernel.image, &file, |index, code, lines, time| {
            let step = steps.get(index);
            let is_well = step.is_some_and(|step| report::shown(step, code, lines).is_ok());
            let word = if is_well { "ok    " } else { "FAILED" };
            let name = step.map_or("?", |step| step.name);
            eprintln!("    {word} {:5} {name} ({:.1} s)", kernel.version, time.as_secs_f32());
        });
        let _gone_or_harmless = fs::remove_file(&file);
        let outcome = report::outcome(kernel, steps, result?, start.elapsed());
        report::tell(&outcome);
        Ok(outcome)
    }

    /// The part of the root that is this kernel's: its modules, and the script.
    fn own_part(&self, kernel: &Kernel, steps: &[Step], is_too_old: bool) -> Result<Vec<u8>> {
        let modules = modules::collect(&kernel.modules)?;
        let words = |step: &Step| match step.test.and_then(|(file, test)| Some((self.tests.get(file)?, test)))
        {
            Some((binary, test)) => {
                let name = binary.file_name().unwrap_or_default().to_string_lossy();
                format!("{name} --exact {test} --include-ignored --test-threads 1")
            }
            None if is_too_old => "sluice verify 2>&1 | $b grep 'is too old: '".to_owned(),
            None => "sluice verify -o json".to_owned(),
        };
        let names: Vec<String> = modules.iter().map(|(name, _)| name.clone()).collect();
        let mut image = Image::default();
        image.file("init", guest::script(steps, &names, words).as_bytes());
        for (name, bytes) in &modules {
            image.file(&format!("modules/{name}.ko"), bytes);
        }
        Ok(image.finish())
    }
}
