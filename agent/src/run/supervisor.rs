//! Starts a redirector where nobody else does, once something needs one, and again when it ends. It outlives the agent,
//! so that an agent's restart breaks no connection: the next agent finds it at its socket.

use std::{os::unix::process::ExitStatusExt as _, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::feed::Feed;

/// How long a redirector of an earlier agent may take to find us.
const EARLIER: Duration = Duration::from_millis(1_200);
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_LAST: Duration = Duration::from_secs(10);
/// A redirector that lived this long was a good one.
const GOOD: Duration = Duration::from_secs(60);

/// `bits/signum-arch.h`, the same on x86-64 and aarch64.
const SIGSYS: i32 = 31;

/// For ever.
///
/// # Errors
/// This binary cannot be found.
pub async fn supervise(feed: Arc<Feed>, run_dir: PathBuf, bpffs: PathBuf, keep_clients: bool) -> Result<()> {
    let binary = std::env::current_exe().context("cannot find this binary")?;
    feed.is_needed().await;
    tokio::time::sleep(EARLIER).await;
    let mut wait = AGAIN_FIRST;
    loop {
        while feed.is_read() {
            tokio::time::sleep(AGAIN_FIRST).await;
        }
        let started = std::time::Instant::now();
        let mut command = Command::new(&binary);
        command.arg("redirector").arg("--run-dir").arg(&run_dir).arg("--bpffs").arg(&bpffs);
        command.args(["--upstream-source", if keep_clients { "pod" } else { "node" }]);
        match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(mut child) => {
                tracing::info!(pid = child.id(), "started a redirector");
                let ended = child.wait().await;
                match ended {
                    Ok(status) if status.signal() == Some(SIGSYS) => tracing::error!(
                        "the kernel ended the redirector at a system call that only an intruder would make; which one is in \
                         the kernel's log (type=1326)"
                    ),
                    ended => tracing::warn!(?ended, "the redirector ended"),
                }
            }
            Err(error) => tracing::error!(%error, "cannot start a redirector"),
        }
        wait = if started.elapsed() > GOOD { AGAIN_FIRST } else { (wait * 2).min(AGAIN_LAST) };
        tokio::time::sleep(wait).await;
    }
}
