//! Handing programs to the kernel, which walks through each before it takes it.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, programs::Program};

use super::{AT_DEVICES, COUNTING, HOOKS, STEERING};

/// The kernel's own types.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// All that an agent may load, those first that take the verifier longest.
pub fn names() -> impl Iterator<Item = &'static str> {
    AT_DEVICES.into_iter().chain(HOOKS).chain([STEERING, COUNTING])
}

/// The program of that name.
///
/// # Errors
/// The object has none.
pub fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Program> {
    ebpf.program_mut(name).with_context(|| format!("the eBPF object has no program {name}"))
}

/// Loads all programs, the one that counts bytes only where it is wanted. The verifier works on the CPU that asks: hence as many
/// threads as this process may use CPUs.
///
/// # Errors
/// Names the program, with what the kernel said.
pub fn load_all(ebpf: &mut Ebpf, counts_bytes: bool) -> Result<()> {
    names().try_for_each(|name| program(ebpf, name).map(drop))?;
    let wanted: Vec<_> = names().filter(|name| counts_bytes || *name != COUNTING).collect();
    let rank = |name: &str| wanted.iter().position(|known| *known == name);
    let mut ranked: Vec<_> =
        ebpf.programs_mut().filter_map(|(name, program)| Some((rank(name)?, name, program))).collect();
    ranked.sort_by_key(|(rank, ..)| *rank);
    let count = thread::available_parallelism().map_or(1, usize::from).min(ranked.len());
    let queue = Mutex::new(ranked.into_iter());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<()> {
        while let Some((_, name, program)) = take() {
            load_one(program).with_context(|| refused(name))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a thread that loads programs panicked"),
        })
    })
}

/// What is said of a program that the kernel refused.
fn refused(name: &str) -> String {
    let text = format!("the kernel refused the program {name}");
    // The steps of a packet's way take a context, whose type the verifier looks up there.
    if Path::new(KERNEL_TYPES).exists() {
        return text;
    }
    format!("{text}: it has no {KERNEL_TYPES}, and must be one that was built with CONFIG_DEBUG_INFO_BTF")
}

/// Loads one.
///
/// # Errors
/// What the kernel or its verifier said.
pub fn load_one(program: &mut Program) -> Result<()> {
    match program {
        Program::CgroupSockAddr(program) => program.load()?,
        Program::CgroupSock(program) => program.load()?,
        Program::SkLookup(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        other => bail!("a hook of type {:?} is not known here", other.prog_type()),
    }
    Ok(())
}
