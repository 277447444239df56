//! Starts a redirector where nobody else does, once something needs one, and another one as soon as it says that it goes, or
//! when it ends: the first serves until the next one does. It outlives the agent, so that an agent's restart breaks no
//! connection: the next agent finds it at its socket.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::process::{Child, Command};

use super::{feed::Feed, own};

/// How long a redirector of an earlier agent may take to find us.
const EARLIER: Duration = Duration::from_millis(1_200);
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_LAST: Duration = Duration::from_secs(10);
/// A redirector that lived this long was a good one.
const GOOD: Duration = Duration::from_secs(60);

/// `bits/signum-arch.h`, the same on x86-64 and aarch64.
const SIGSYS: i32 = 31;

/// For ever.
pub async fn supervise(feed: Arc<Feed>, run_dir: PathBuf, bpffs: PathBuf, keep_clients: bool) -> ! {
    feed.is_needed().await;
    tokio::time::sleep(EARLIER).await;
    let mut wait = AGAIN_FIRST;
    loop {
        feed.is_left().await;
        let started = Instant::now();
        let mut had_said = false;
        match command(&run_dir, &bpffs, keep_clients).spawn() {
            Ok(child) => {
                tracing::info!(pid = child.id(), "started a redirector");
                // On its own: when another one has taken over, it may take a minute to end.
                let ended = tokio::spawn(end(child));
                tokio::select! {
                    _ended = ended => {}
                    () = feed.is_read() => had_said = feed.is_left().await,
                }
            }
            Err(error) => tracing::error!(%error, "cannot start a redirector"),
        }
        wait = if started.elapsed() > GOOD { AGAIN_FIRST } else { (wait * 2).min(AGAIN_LAST) };
        // One that has been told to go waits for the next one.
        if !had_said {
            tokio::time::sleep(wait).await;
        }
    }
}

fn command(run_dir: &Path, bpffs: &Path, keep_clients: bool) -> Command {
    let mut command = Command::from(own::program());
    command.arg("redirector").arg("--run-dir").arg(run_dir).arg("--bpffs").arg(bpffs);
    command.args(["--upstream-source", if keep_clients { "pod" } else { "node" }]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

async fn end(mut child: Child) {
    let pid = child.id();
    match child.wait().await {
        Ok(status) if status.signal() == Some(SIGSYS) => tracing::error!(
            pid,
            "the kernel ended the redirector at a system call that only an intruder would make; which one is in \
             the kernel's log (type=1326)"
        ),
        Ok(status) if status.success() => tracing::info!(pid, "a redirector has gone"),
        ended => tracing::warn!(pid, ?ended, "the redirector ended"),
    }
}
