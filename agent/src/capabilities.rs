//! Which capabilities this process has, and what to say of those that it lacks. Numbers: `include/uapi/linux/capability.h`.

use std::fs;

use anyhow::{Context as _, Result, bail};

use self::Capability::{Bpf, NetAdmin, Perfmon, SetGid, SetUid, SysAdmin, SysPtrace};

/// A capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capability {
    /// To become another group.
    SetGid = 6,
    /// To become another user.
    SetUid = 7,
    /// Networks.
    NetAdmin = 12,
    /// Other users' processes.
    SysPtrace = 19,
    /// Most of the rest; stands in for [`Self::Bpf`] and [`Self::Perfmon`].
    SysAdmin = 21,
    /// Programs that the verifier does not guard against speculation.
    Perfmon = 38,
    /// Programs and maps.
    Bpf = 39,
}

/// What this process has, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those in effect.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn effective() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        bits.map(Self).context("/proc/self/status names no CapEff")
    }

    const fn has(self, capability: Capability) -> bool {
        self.0 >> capability as u32 & 1 == 1
    }

    /// Refuses what the agent cannot start without, by name.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn for_loading(self) -> Result<()> {
        let admin = self.has(SysAdmin);
        refuse(
            "loading eBPF programs",
            [
                ("CAP_BPF (or CAP_SYS_ADMIN)", self.has(Bpf) || admin),
                // Without it the verifier guards against speculation, and refuses programs of this size.
                ("CAP_PERFMON (or CAP_SYS_ADMIN)", self.has(Perfmon) || admin),
                ("CAP_NET_ADMIN", self.has(NetAdmin)),
            ],
        )
    }

    /// Refuses what the redirector of user root cannot start without, by name. Maps that are pinned are anybody's who may
    /// open the file, since Linux 5.19 (commit c8644cd0efe7); before, it needs CAP_BPF too.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn for_redirecting(self) -> Result<()> {
        refuse(
            "the redirector, which becomes nobody,",
            [("CAP_SETGID", self.has(SetGid)), ("CAP_SETUID", self.has(SetUid))],
        )
    }

    /// What does not work for want of a capability that the node can do without, in words.
    pub fn shortcomings(self) -> Vec<&'static str> {
        let entering = "CAP_SYS_ADMIN is missing: the network namespaces of pods cannot be entered, so that their sockets \
                        are not told when a backend is gone, and sluice.dev/socket-lb cannot leave them out";
        let finding = "CAP_SYS_PTRACE is missing: the network namespaces of pods cannot be found by their processes, so that \
                       their sockets are not told when a backend is gone, and sluice.dev/socket-lb cannot leave them out";
        let all = [(SysAdmin, entering), (SysPtrace, finding)];
        all.into_iter().filter(|(capability, _)| !self.has(*capability)).map(|(_, text)| text).collect()
    }
}

fn refuse<const N: usize>(what: &str, needed: [(&str, bool); N]) -> Result<()> {
    let missing: Vec<&str> = needed.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
    if !missing.is_empty() {
        bail!("{what} needs {}; run as root or add these capabilities", missing.join(" and "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(capabilities: &[Capability]) -> Capabilities {
        Capabilities(capabilities.iter().fold(0, |bits, capability| bits | 1 << *capability as u32))
    }

    #[test]
    fn missing_capabilities_are_named() {
        for (has, refused, short) in [
            (&[NetAdmin, SysAdmin, SysPtrace][..], &[][..], 0),
            (&[NetAdmin, SysAdmin], &[], 1),
            (&[NetAdmin, Bpf, Perfmon], &[], 2),
            (&[NetAdmin, Bpf, Perfmon, SysPtrace], &[], 1),
            (&[SysAdmin, SysPtrace], &["CAP_NET_ADMIN"], 0),
            (&[NetAdmin, Bpf], &["CAP_PERFMON"], 2),
            (&[NetAdmin, Perfmon], &["CAP_BPF"], 2),
            (&[], &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"], 2),
        ] {
            let (has, case) = (of(has), format!("{has:?}"));
            let said = has.for_loading().err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(said.is_empty(), refused.is_empty(), "{case}: {said}");
            assert!(refused.iter().all(|name| said.contains(name)), "{case}: {said}");
            assert_eq!(has.shortcomings().len(), short, "{case}");
        }
    }

    #[test]
    fn the_redirector_names_what_it_cannot_become_nobody_without() {
        assert!(of(&[SetGid, SetUid]).for_redirecting().is_ok());
        for (has, name) in [([SetUid], "CAP_SETGID"), ([SetGid], "CAP_SETUID")] {
            let said = of(&has).for_redirecting().unwrap_err().to_string();
            assert!(said.contains(name), "{said}");
        }
    }
}
