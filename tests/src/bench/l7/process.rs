//! A proxy's process: which it is, what it uses, and how many clients it has.

use std::fs;

use anyhow::{Context as _, Result};

use crate::world::Pod;

/// Ticks of `/proc/PID/stat` in a second: `USER_HZ`, the same on every Linux.
const TICKS: f64 = 100.0;

/// The process in `pod` whose command line has `word`.
pub fn pid_of(pod: &Pod, word: &str) -> Option<u32> {
    let pids = fs::read_to_string(pod.cgroup.join("cgroup.procs")).ok()?;
    let has = |pid: &&str| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split('\0').any(|part| part == word)
    };
    pids.lines().find(has)?.parse().ok()
}

/// CPU time that a process has used, seconds.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    /// In its own code.
    pub user_s: f64,
    /// In the kernel, on its behalf.
    pub system_s: f64,
}

impl Cpu {
    /// Both.
    pub fn sum_s(self) -> f64 {
        self.user_s + self.system_s
    }

    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self { user_s: self.user_s - before.user_s, system_s: self.system_s - before.system_s }
    }
}

/// What the process has used until now.
pub fn cpu(pid: u32) -> Result<Cpu> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    Ok(Cpu { user_s: ticks(11).context("utime")? / TICKS, system_s: ticks(12).context("stime")? / TICKS })
}

/// Memory that the process has in use, MB.
pub fn resident_mb(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().next().context("kB")?.parse::<f64>()? / 1024.0)
}

/// Connections that the process's network has at this port of its own.
pub fn connections_at(pid: u32, port: u16) -> Result<usize> {
    const ESTABLISHED: &str = "01";
    let text = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let is_one = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().and_then(|end| end.rsplit(':').next());
        local.and_then(|port| u16::from_str_radix(port, 16).ok()) == Some(port)
            && fields.nth(1) == Some(ESTABLISHED)
    };
    Ok(text.lines().filter(is_one).count())
}
