//! The image a second time, from a copy of the sources elsewhere: it must be the same to the byte.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::shell::{cargo, run, run_quiet, step, workspace};

/// Fails unless the sources, somewhere else and without anything built before, make `archive`.
pub fn is_the_same(archive: &Path) -> Result<()> {
    let copy = std::env::temp_dir().join(format!("sluice-again-{}", std::process::id()));
    let result = step("the image again, elsewhere", || build(&copy, archive));
    let _not_even_begun = fs::remove_dir_all(&copy);
    result
}

fn build(copy: &Path, archive: &Path) -> Result<()> {
    // What is tracked, and what is new and not ignored: nothing that was built.
    let words = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let names = run_quiet(Command::new("git").current_dir(workspace()).args(words))?;
    for name in names.split_terminator('\0') {
        let (from, to) = (workspace().join(name), copy.join(name));
        fs::create_dir_all(to.parent().unwrap_or(copy))?;
        // A file that is deleted and not yet committed is still listed.
        if from.is_file() {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {name}"))?;
        }
    }
    let again = copy.join("again.tar");
    let mut command = cargo();
    command
        .current_dir(copy)
        .args(["run", "--quiet", "--package", "xtask", "--", "image", "--to"])
        .arg(&again);
    command.env("SLUICE_TOOLCHAIN", crate::setup::folder()).env_remove("CARGO_TARGET_DIR");
    run(&mut command)?;
    if fs::read(&again)? == fs::read(archive)? {
        return Ok(());
    }
    let kept = archive.with_file_name("again.tar");
    fs::copy(&again, &kept).with_context(|| format!("cannot write {}", kept.display()))?;
    bail!(
        "the image is another one when it is built in another folder: a path or a time got into it; compare {} with {}",
        archive.display(),
        kept.display()
    )
}
