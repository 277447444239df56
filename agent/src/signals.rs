//! How processes are told to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, which end nothing by themselves from now on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// The kernel does not let us handle them.
pub async fn stop() -> io::Result<()> {
    Signals::new()?.wait().await;
    Ok(())
}

/// Calls `then`, on a thread of its own, at SIGTERM or SIGINT.
///
/// # Errors
/// The kernel does not let us handle them, or start a thread.
pub fn on_stop(then: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(signals.wait());
        then();
    })?;
    Ok(())
}
