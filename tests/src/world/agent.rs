//! The agent of a node, and the command line beside it.

use std::{
    fs::File,
    path::Path,
    process::{Child, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::{Node, kill, sluice_binary};
use crate::wait;

/// Longest that an agent takes to start: the verifier wants two seconds of CPU, of which others may leave little.
const START: Duration = Duration::from_secs(90);

/// A running `sluice run`.
#[derive(Debug)]
pub struct Agent {
    child: Child,
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: nothing of its own doing happens any more.
    pub fn kill(mut self) {
        kill(&mut self.child);
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

impl Node {
    /// Starts the agent on the world's manifests and waits until it is healthy.
    pub fn agent(&self) -> Agent {
        self.agent_with(&[])
    }

    /// The same, with these flags besides.
    pub fn agent_with(&self, flags: &[&str]) -> Agent {
        let manifests = self.manifests().display().to_string();
        let agent = self.spawn_agent(&[&["--manifests", &manifests], flags].concat());
        self.wait_healthy();
        agent
    }

    /// Starts the agent with these sources; does not wait. Its log is `agent.log` in the node's folder.
    pub fn spawn_agent(&self, flags: &[&str]) -> Agent {
        self.spawn_other_agent(&sluice_binary(), flags)
    }

    /// The same of another binary.
    pub fn spawn_other_agent(&self, binary: &Path, flags: &[&str]) -> Agent {
        let log = File::options().create(true).append(true).open(self.folder().join("agent.log"));
        let log = log.expect("a log file");
        let mut command = self.host.command(&binary.display().to_string());
        command.arg("run").args(["--node-name", &self.name]).arg("--cgroup").arg(self.cgroup());
        command.arg("--bpffs").arg(self.bpffs()).arg("--run-dir").arg(self.folder().join("run")).args(flags);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Agent { child: child.expect("sluice starts") }
    }

    /// Starts a redirector that is not the agent's, with these flags besides. Its log is the agent's.
    pub fn spawn_redirector(&self, flags: &[&str]) -> Child {
        let log = File::options().create(true).append(true).open(self.folder().join("agent.log"));
        let mut command = self.host.command(&sluice_binary().display().to_string());
        command.arg("redirector").arg("--run-dir").arg(self.folder().join("run"));
        command.arg("--bpffs").arg(self.bpffs()).args(flags).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log.expect("a log file")).spawn().expect("sluice starts")
    }

    /// Waits until `sluice status` says healthy.
    pub fn wait_healthy(&self) {
        self.wait_other_healthy(&sluice_binary());
    }

    /// The same for an agent of another binary, by its own word.
    pub fn wait_other_healthy(&self, binary: &Path) {
        wait::until_within(START, "a healthy agent", || {
            let output = self.run(binary, &["status"]);
            if output.status.success() { Ok(()) } else { Err(format!("{}{}", text(&output), self.log())) }
        });
    }

    /// What the agent wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("agent.log")).unwrap_or_default()
    }

    /// Runs a command of `sluice` on this node's pins.
    pub fn sluice(&self, words: &[&str]) -> Output {
        self.run(&sluice_binary(), words)
    }

    fn run(&self, binary: &Path, words: &[&str]) -> Output {
        let mut command = self.host.command(&binary.display().to_string());
        command.args(words);
        if !matches!(words.first(), Some(&"check")) {
            command.arg("--bpffs").arg(self.bpffs());
        }
        command.output().expect("sluice starts")
    }

    /// The same with `-o json`, parsed.
    pub fn json(&self, words: &[&str]) -> Value {
        self.try_json(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`Node::json`], or the command and what it printed where that is no JSON.
    pub fn try_json(&self, words: &[&str]) -> Result<Value, String> {
        let words: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
        let output = self.sluice(&words);
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("sluice {}: {error}: {}", words.join(" "), text(&output)))
    }

    /// Waits until `explain` gives this verdict with this many endpoints.
    pub fn wait_verdict(&self, destination: &str, verdict: &str, endpoints: usize) {
        wait::until(destination, || {
            let answer = self.json(&["explain", destination]);
            let count = answer["endpoints"].as_array().map(Vec::len);
            if answer["verdict"] == verdict && count == Some(endpoints) { Ok(()) } else { Err(answer) }
        });
    }
}

/// Everything a command printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
