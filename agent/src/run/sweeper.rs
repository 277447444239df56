//! A thread that tells sockets of backends that are gone. Apart from the programming thread, for it visits every
//! pod's network namespace.

use std::{
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{Arc, mpsc},
};

use anyhow::Result;
use sluice_common::layout::RevnatKey;

use crate::{
    health::Shared,
    maps::{Pins, bpf::SocketMemory},
    sockets::{Gone, Memory, sweep},
};

struct Maps(SocketMemory);

impl Memory for Maps {
    fn sockets(&self) -> BorrowedFd<'_> {
        self.0.sockets()
    }

    fn has_revnat(&self, key: &RevnatKey) -> bool {
        self.0.has_revnat(key)
    }
}

/// Starts the thread; it ends with the sender.
pub fn spawn(pins: Pins, cgroup: PathBuf, shared: Arc<Shared>) -> Result<mpsc::Sender<Vec<Gone>>> {
    let (sender, receiver) = mpsc::channel::<Vec<Gone>>();
    std::thread::Builder::new().name("sweeper".to_owned()).spawn(move || {
        while let Ok(mut gone) = receiver.recv() {
            gone.extend(receiver.try_iter().flatten());
            match SocketMemory::open(&pins).map(|memory| sweep(&cgroup, &gone, &Maps(memory))) {
                Ok(0) => {}
                Ok(count) => {
                    tracing::info!(sockets = count, "told sockets that their backend is gone");
                    shared.update(|state| state.sockets_destroyed += count as u64);
                }
                Err(error) => tracing::warn!("sockets of deleted backends were not told: {error:#}"),
            }
        }
    })?;
    Ok(sender)
}
