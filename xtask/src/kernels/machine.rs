//! The emulated machine: QEMU without any acceleration, a serial line as its only device.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::guest::{Mark, mark};
use crate::setup::{Apt, library_path};
use crate::shell::step;

/// Longest boot, and longest step.
const BOOT: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_secs(900);

/// Programs of the emulator, unpacked from packages.
#[derive(Debug)]
pub struct Emulator {
    root: PathBuf,
}

impl Emulator {
    /// Unpacks it into `folder`, unless it is there.
    pub fn ensure(folder: &Path) -> Result<Self> {
        let emulator = Self { root: folder.join("emulator") };
        if !emulator.program().is_file() || !emulator.busybox().is_file() {
            let apt = Apt::new(folder)?;
            apt.update()?;
            std::fs::create_dir_all(&emulator.root)?;
            step("emulator (Debian packages)", || {
                let packages = ["qemu-system-x86", "qemu-system-data", "seabios", "busybox-static"];
                apt.unpack(&packages.map(str::to_owned), &emulator.root)
            })?;
        }
        Ok(emulator)
    }

    /// A shell's tools in one static program.
    pub fn busybox(&self) -> PathBuf {
        self.root.join("bin/busybox")
    }

    fn program(&self) -> PathBuf {
        self.root.join("usr/bin/qemu-system-x86_64")
    }

    fn command(&self, kernel: &Path, image: &Path) -> Command {
        let mut command = Command::new(self.program());
        command.env("LD_LIBRARY_PATH", library_path(&self.root));
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(folder));
        }
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
            .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "2G"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(image)
            .arg("-append")
            .arg("console=ttyS0 panic=-1 quiet loglevel=1 mitigations=off nokaslr");
        command
    }
}

/// What came of a boot.
#[derive(Debug, Default)]
pub struct Boot {
    /// Whether the script came to run.
    pub booted: bool,
    /// Exit code of each step that ended, what it printed, and how long it took.
    pub steps: Vec<(usize, i32, Vec<String>, Duration)>,
    /// What was printed after that.
    pub rest: Vec<String>,
    /// Whether all steps ended.
    pub is_over: bool,
}

/// Boots and listens until the script is over, the machine stops, or nothing happens for too long. Each step's end is told.
pub fn boot(
    emulator: &Emulator,
    kernel: &Path,
    image: &Path,
    mut told: impl FnMut(usize, i32, &[String], Duration),
) -> Result<Boot> {
    let mut command = emulator.command(kernel, image);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot start {}", emulator.program().display()))?;
    let output = child.stdout.take().context("a pipe")?;
    let (send, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let mut boot = Boot::default();
    listen(&lines, &mut boot, &mut told);
    let _ended_already = child.kill();
    let _reaped = child.wait();
    drop(lines);
    let _reader_ends_with_the_pipe = reader.join();
    Ok(boot)
}

fn listen(
    lines: &mpsc::Receiver<String>,
    boot: &mut Boot,
    told: &mut impl FnMut(usize, i32, &[String], Duration),
) {
    let mut since = Instant::now();
    loop {
        let limit = if boot.booted { STEP } else { BOOT };
        // A machine that stops, panicked or not, closes the line.
        let Ok(line) = lines.recv_timeout(limit.saturating_sub(since.elapsed())) else { return };
        match mark(&line) {
            None => {
                boot.rest.push(line);
                continue;
            }
            Some(Mark::Booted) => boot.booted = true,
            Some(Mark::Begin(_)) => boot.rest.clear(),
            Some(Mark::End(index, code)) => {
                told(index, code, &boot.rest, since.elapsed());
                boot.steps.push((index, code, std::mem::take(&mut boot.rest), since.elapsed()));
            }
            Some(Mark::Over) => {
                boot.is_over = true;
                return;
            }
        }
        since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Boot {
        let (send, lines) = mpsc::channel();
        text.lines().for_each(|line| send.send(line.to_owned()).unwrap_or_default());
        drop(send);
        let mut boot = Boot::default();
        listen(&lines, &mut boot, &mut |_, _, _, _| {});
        boot
    }

    #[test]
    fn steps_are_known_by_their_marks_and_a_panic_is_no_end() {
        let boot =
            heard("noise\n@@ booted 6.1\n@@ begin 0\nhello\n@@ end 0 0\n@@ begin 1\n@@ end 1 101\n@@ over\n");
        let codes: Vec<_> = boot.steps.iter().map(|(index, code, ..)| (*index, *code)).collect();
        assert!(boot.booted && boot.is_over);
        assert_eq!(codes, [(0, 0), (1, 101)]);
        assert_eq!(boot.steps[0].2, ["hello"]);
        let panicked = heard("@@ booted 6.1\n@@ begin 0\nKernel panic - not syncing\n");
        assert!(!panicked.is_over && panicked.steps.is_empty());
        assert_eq!(panicked.rest, ["Kernel panic - not syncing"]);
    }
}
