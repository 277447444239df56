//! A running `sluice monitor`, and what it has said.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    wait::DEADLINE,
    world::{Node, sluice_binary},
};

/// The command, with `-o json`.
#[derive(Debug)]
pub struct Monitor {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Monitor {
    /// Starts it on a node's pins, and waits until it watches.
    ///
    /// # Panics
    /// It does not.
    pub fn start(node: &Node, flags: &[&str]) -> Self {
        let mut monitor = Self::spawn(node, &[flags, &["-o", "json"]].concat());
        let said = monitor.said();
        assert!(said.starts_with("watching"), "{said}");
        monitor
    }

    /// Starts it; does not wait.
    pub fn spawn(node: &Node, flags: &[&str]) -> Self {
        let mut command = node.host.command(&sluice_binary().display().to_string());
        command.arg("monitor").arg("--bpffs").arg(node.bpffs()).args(flags);
        let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("sluice starts");
        let out = lines(child.stdout.take().expect("a pipe"));
        let err = lines(child.stderr.take().expect("a pipe"));
        Self { child, out, err }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line on standard error.
    ///
    /// # Panics
    /// None comes.
    pub fn said(&mut self) -> String {
        self.err.recv_timeout(DEADLINE).expect("a line on standard error")
    }

    /// The next event.
    ///
    /// # Panics
    /// None comes.
    pub fn row(&mut self) -> Value {
        let line = self.out.recv_timeout(DEADLINE).expect("an event");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// All events up to the next of this reason at this address, which is the last.
    pub fn until(&mut self, reason: &str, dialled: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        loop {
            let row = self.row();
            let is_last = row["reason"] == reason && row["dialled"] == dialled;
            rows.push(row);
            if is_last {
                return rows;
            }
        }
    }

    /// The next of this reason at this address.
    pub fn event(&mut self, reason: &str, dialled: &str) -> Value {
        self.until(reason, dialled).pop().unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// It has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a process that lives");
    }

    /// Ends it by Ctrl-C. Returns how it ended, the events not asked for yet, and what it said since.
    pub fn end(self) -> (ExitStatus, Vec<String>, Vec<String>) {
        self.signal(Signal::INT);
        self.ended()
    }

    /// Waits until it ends by itself; see [`Self::end`].
    ///
    /// # Panics
    /// It cannot be waited for.
    pub fn ended(mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        // Both end with the process.
        let (out, err) = (self.out.iter().collect(), self.err.iter().collect());
        (self.child.wait().expect("a child"), out, err)
    }

    /// Nobody reads what it writes any more.
    pub fn stop_reading(&mut self) {
        self.out = channel().1;
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The lines of a pipe, which is closed once nobody takes them.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        for line in lines {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Panics unless an event has these values under these keys.
///
/// # Panics
/// It has others.
pub fn check(row: &Value, wanted: &[(&str, Value)]) {
    for (key, value) in wanted {
        assert_eq!(row[key], *value, "{key} of {row}");
    }
}
