//! Set-up that cannot work names what is missing and how to get it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{path::PathBuf, process::Command};

/// Runs `xtask setup` into a fresh folder with these variables; returns what it said as it failed.
fn failure(name: &str, variables: &[(&str, &str)]) -> String {
    let folder = std::env::temp_dir().join(format!("sluice-setup-{name}-{}", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("setup").env("SLUICE_TOOLCHAIN", &folder).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let _never_made = std::fs::remove_dir_all(&folder);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

/// A folder with links to the programs named, as a PATH.
fn path_with(programs: &[&str]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("sluice-path-{}-{}", programs.len(), std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for program in programs {
        let _there_already = std::os::unix::fs::symlink(format!("/usr/bin/{program}"), folder.join(program));
    }
    folder
}

#[test]
fn without_apt_both_ways_are_named_with_what_is_missing() {
    let path = path_with(&[]);
    let message = failure("no-apt", &[("PATH", &path.display().to_string())]);
    for part in ["apt-get is missing", "rustup (missing)", "bpf-linker (missing)", "--component rust-src"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn without_a_network_the_archive_is_named() {
    let path = path_with(&["apt-get", "dpkg"]);
    let nowhere = "http://127.0.0.1:9";
    let message = failure(
        "no-network",
        &[("PATH", &path.display().to_string()), ("http_proxy", nowhere), ("https_proxy", nowhere)],
    );
    // On a machine that is no Debian there is no archive to miss.
    let debian = std::path::Path::new("/usr/bin/apt-get").exists();
    let want = if debian { "the package archive is out of reach" } else { "apt-get is missing" };
    assert!(message.contains(want), "{message}");
    std::fs::remove_dir_all(path).unwrap();
}
