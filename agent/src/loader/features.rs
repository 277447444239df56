//! What this kernel lacks of what we use where it is there, and what stands in its place. Each is asked for, not read from the
//! kernel's version: distributions take features back.

use std::path::Path;

use anyhow::Result;
use aya::{
    programs::{ProgramType, SchedClassifier, TcAttachType},
    sys::{BpfHelper, is_helper_supported},
};

/// A feature that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lacking {
    /// Its name.
    pub feature: &'static str,
    /// The first release of Linux that has it.
    pub since: &'static str,
    /// What we do without it.
    pub instead: &'static str,
}

/// What a kernel has, as it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// Links of tc programs at devices. A query that is not allowed counts as an answer.
    pub tcx: bool,
    /// The generic netlink family `netdev`, which tells what devices do with XDP.
    pub xdp_features: bool,
    /// IPv6.
    pub ipv6: bool,
    /// Filters of system calls.
    pub seccomp: bool,
}

impl Kernel {
    /// Asks the running one; `netdev` is whether it has that family.
    pub fn ask(netdev: bool) -> Self {
        let is_there = |path: &str| Path::new(path).exists();
        Self {
            tcx: has_tcx(),
            xdp_features: netdev,
            ipv6: is_there("/proc/net/if_inet6"),
            seccomp: is_there("/proc/sys/kernel/seccomp/actions_avail"),
        }
    }

    /// What it lacks, in the order of what matters.
    pub fn lacking(self) -> Vec<Lacking> {
        let all = [
            (
                self.tcx,
                "TCX",
                "6.6",
                "filters at the queueing discipline clsact; one in front that says `ok` hides packets",
            ),
            (
                self.xdp_features,
                "XDP features of devices",
                "6.3",
                "`--xdp` redirects to no other device: such packets are left to tc",
            ),
            (
                self.seccomp,
                "filters of system calls",
                "3.5",
                "none: the redirector can make every call of its user's",
            ),
            (self.ipv6, "IPv6", "any, where it is on", "IPv4 alone"),
        ];
        let missing = all.into_iter().filter(|(has, ..)| !has);
        missing.map(|(_, feature, since, instead)| Lacking { feature, since, instead }).collect()
    }
}

/// Whether cgroup programs may say why a call fails.
///
/// # Errors
/// The kernel does not answer.
pub fn has_set_retval() -> Result<bool> {
    Ok(is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)?)
}

/// Whether links of tc programs are there. Every network namespace has a loopback device; a kernel that does not know the
/// question refuses it.
pub fn has_tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_told_and_what_stands_for_it() {
        let all = Kernel { tcx: true, xdp_features: true, ipv6: true, seccomp: true };
        assert_eq!(all.lacking(), []);
        for (kernel, feature, since, instead) in [
            (Kernel { tcx: false, ..all }, "TCX", "6.6", "clsact"),
            (Kernel { xdp_features: false, ..all }, "XDP features", "6.3", "left to tc"),
            (Kernel { seccomp: false, ..all }, "filters of system calls", "3.5", "none"),
            (Kernel { ipv6: false, ..all }, "IPv6", "any", "IPv4"),
        ] {
            let [found] = kernel.lacking()[..] else { panic!("{feature}") };
            assert!(found.feature.contains(feature) && found.instead.contains(instead), "{found:?}");
            assert!(found.since.starts_with(since), "{found:?}");
        }
    }
}
