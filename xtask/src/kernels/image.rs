//! The guest's root: programs of this machine with their libraries, in an archive that the kernel unpacks at its start.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::shell::run_quiet;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive in the format "newc" of cpio(5), which knows no compression.
#[derive(Default)]
pub struct Image {
    bytes: Vec<u8>,
    count: u32,
    known: BTreeSet<PathBuf>,
}

impl Image {
    /// Adds a file that may be run.
    pub fn file(&mut self, path: &str, contents: &[u8]) {
        if let Some(folder) = Path::new(path).parent() {
            self.folder(folder);
        }
        if self.known.insert(PathBuf::from(path)) {
            self.entry(path, PROGRAM, contents);
        }
    }

    /// Adds a folder and those above it.
    pub fn folder(&mut self, path: &Path) {
        if path == Path::new("") || !self.known.insert(path.to_owned()) {
            return;
        }
        if let Some(above) = path.parent() {
            self.folder(above);
        }
        self.entry(&path.to_string_lossy(), FOLDER, &[]);
    }

    /// Adds a program of this machine to `bin/`, without what only debuggers read, and its libraries to `lib/`.
    pub fn program(&mut self, file: &Path, libraries: Option<&OsStr>) -> Result<()> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let bytes = stripped(file)?;
        self.file(&format!("bin/{name}"), &bytes);
        let mut command = Command::new("ldd");
        if let Some(libraries) = libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        // Static programs have none, which ldd takes for a failure.
        let text = run_quiet(command.arg(file)).unwrap_or_default();
        for library in text.lines().filter_map(library) {
            let library = Path::new(library);
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            // The loader's place is written in each program.
            let place = if name.starts_with("ld-") {
                library.to_string_lossy()
            } else {
                format!("lib/{name}").into()
            };
            let bytes = fs::read(library).with_context(|| format!("cannot read {}", library.display()))?;
            self.file(place.trim_start_matches('/'), &bytes);
        }
        Ok(())
    }

    /// The archive, closed.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.count += 1;
        let (length, name) = (contents.len() as u32, path.len() as u32 + 1);
        let numbers = [self.count, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name, 0];
        self.bytes.extend(b"070701");
        self.bytes.extend(numbers.map(|number| format!("{number:08x}")).concat().as_bytes());
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The file in a line of ldd(1): `libc.so.6 => /lib/libc.so.6 (0x…)`, or the loader's alone.
fn library(line: &str) -> Option<&str> {
    let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
    let path = path.split(' ').next()?;
    path.starts_with('/').then_some(path)
}

fn stripped(file: &Path) -> Result<Vec<u8>> {
    let target = std::env::temp_dir().join(format!("sluice-stripped-{}", std::process::id()));
    let result = run_quiet(Command::new("strip").arg("--strip-debug").arg("-o").arg(&target).arg(file));
    let bytes = fs::read(if result.is_ok() { &target } else { file });
    let _gone_or_harmless = fs::remove_file(&target);
    bytes.with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_bring_their_folders_once() {
        let mut image = Image::default();
        image.file("a/b/c", b"one");
        image.file("a/b/d", b"");
        image.file("a/b/c", b"again");
        let bytes = image.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5, "two folders, two files, the end");
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.contains("one") && !text.contains("again"));
    }

    #[test]
    fn libraries_are_found_in_what_ldd_prints() {
        for (line, want) in [
            ("\tlibc.so.6 => /lib/libc.so.6 (0x7f)", Some("/lib/libc.so.6")),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x7f)", Some("/lib64/ld-linux-x86-64.so.2")),
            ("\tlinux-vdso.so.1 (0x7f)", None),
        ] {
            assert_eq!(library(line), want, "{line}");
        }
    }
}
