//! The filter of system calls that the redirector puts on itself: what strangers send is read by a process that could not
//! do much else if they took it over. Lists are in `calls`; sys.rs hands the filter to the kernel.
//!
//! A call that is not on the list fails with EPERM: a library of another version may try one and go on without it, and a
//! node's connections are worth more than our list. What only an intruder would call ends the process at once. The kernel
//! logs both.

mod calls;

use std::{collections::BTreeMap, io};

use anyhow::{Context as _, Result, anyhow};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::sys;

/// What becomes of system calls that the redirector does not need.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, clap::ValueEnum)]
pub enum Confinement {
    /// They fail; those that only an intruder would make end the process.
    #[default]
    Enforce,
    /// They are made, and the kernel logs them.
    Log,
    /// They are made.
    Off,
}

/// What an argument must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Limit {
    Is(u64),
    /// Of these bits exactly those.
    Bits(u64, u64),
    /// None of these bits.
    NoBits(u64),
    /// A pointer to nothing.
    Null,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Confines every thread of this process, and those that they start. There is no way back. Needs `no_new_privs`.
///
/// # Errors
/// The kernel has no filters of system calls, or none for this architecture are known.
pub fn confine(how: Confinement) -> Result<()> {
    for program in programs(how)? {
        let program: Vec<_> = program
            .into_iter()
            .map(|step| libc::sock_filter { code: step.code, jt: step.jt, jf: step.jf, k: step.k })
            .collect();
        sys::filter_system_calls(&program).map_err(explain).context("cannot filter system calls")?;
    }
    Ok(())
}

fn explain(error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL) => {
            anyhow!("the kernel lacks CONFIG_SECCOMP_FILTER; say --seccomp off")
        }
        _ => error.into(),
    }
}

/// In the order in which they are put on: the last one forbids to add others. Of their answers the strictest holds.
fn programs(how: Confinement) -> Result<Vec<BpfProgram>> {
    let eperm = SeccompAction::Errno(libc::EPERM as u32);
    // With it a C library takes `clone`, whose flags can be seen.
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    match how {
        Confinement::Off => Ok(Vec::new()),
        Confinement::Log => Ok(vec![program(allowed()?, SeccompAction::Log, SeccompAction::Allow)?]),
        Confinement::Enforce => Ok(vec![
            program(always(calls::INTRUDERS), SeccompAction::Allow, SeccompAction::KillProcess)?,
            program(always(&[libc::SYS_clone3]), SeccompAction::Allow, enosys)?,
            program(allowed()?, eperm, SeccompAction::Allow)?,
        ]),
    }
}

fn program(rules: Rules, otherwise: SeccompAction, named: SeccompAction) -> Result<BpfProgram> {
    let here =
        std::env::consts::ARCH.try_into().context("no filter of system calls for this architecture")?;
    let filter = SeccompFilter::new(rules, otherwise, named, here)?;
    Ok(filter.try_into()?)
}

fn always(calls: &[libc::c_long]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn allowed() -> Result<Rules> {
    let mut rules = always(calls::ALLOWED);
    rules.extend(always(calls::ALLOWED_HERE));
    for (call, limits) in calls::allowed_if(std::process::id()) {
        let conditions = limits.into_iter().map(condition).collect::<Result<_, _>>()?;
        rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    }
    Ok(rules)
}

fn condition((argument, limit): (u8, Limit)) -> Result<SeccompCondition, seccompiler::BackendError> {
    // The kernel takes numbers as `int`, or knows none of the higher bits: what stands there is nobody's.
    let (length, operator, value) = match limit {
        Limit::Is(value) => (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value),
        Limit::Bits(mask, value) => (SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value),
        Limit::NoBits(mask) => (SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), 0),
        Limit::Null => (SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0),
    };
    SeccompCondition::new(argument, length, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_on_two_lists() {
        let conditional = calls::allowed_if(1).into_iter().map(|(call, _)| call);
        let allowed: Vec<_> = calls::ALLOWED.iter().chain(calls::ALLOWED_HERE).copied().collect();
        let rules = allowed.len() + calls::INTRUDERS.len();
        let all: std::collections::BTreeSet<_> = allowed.iter().chain(calls::INTRUDERS).copied().collect();
        assert_eq!(all.len(), rules);
        // A call that is allowed in any case must have no condition: it would be one too few.
        assert_eq!(conditional.filter(|call| all.contains(call)).count(), 0);
    }

    #[test]
    fn filters_are_made_for_each_choice() {
        for (how, filters) in [(Confinement::Enforce, 3), (Confinement::Log, 1), (Confinement::Off, 0)] {
            assert_eq!(programs(how).unwrap().len(), filters, "{how:?}");
        }
    }
}
