//! What `RuntimeDefault` means for a container, in the form of `runtime-spec/config-linux.md`. Calls that containerd's default
//! profile lists for nobody, or only for who has a capability, fail; all others are made, for no test is about those.
//! Source: `containerd/contrib/seccomp/seccomp_default.go`; CRI-O's profile has the same conditions for these.

use serde_json::{Value, json};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// All flags of `clone` that make a namespace.
const NAMESPACES: u32 = 0x7e02_0000;
/// The one family of sockets that is kept from everybody.
const AF_VSOCK: u32 = 40;

/// Calls that who has one of these capabilities may make, and nobody else.
const CONDITIONAL: [(&[&str], &[&str]); 12] = [
    (&["BPF", "SYS_ADMIN"], &["bpf"]),
    (&["PERFMON", "SYS_ADMIN"], &["perf_event_open"]),
    (
        &["SYS_ADMIN"],
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "quotactl",
            "setdomainname",
            "sethostname",
            "setns",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (&["SYS_ADMIN", "SYSLOG"], &["syslog"]),
    (&["DAC_READ_SEARCH"], &["open_by_handle_at"]),
    (&["SYS_BOOT"], &["reboot"]),
    (&["SYS_CHROOT"], &["chroot"]),
    (&["SYS_MODULE"], &["delete_module", "finit_module", "init_module"]),
    (&["SYS_PACCT"], &["acct"]),
    (&["SYS_PTRACE"], &["kcmp", "pidfd_getfd", "process_madvise"]),
    (&["SYS_TIME"], &["clock_settime", "settimeofday"]),
    (&["SYS_NICE"], &["get_mempolicy", "mbind", "set_mempolicy"]),
];
/// Calls that nobody may make.
const NEVER: [&str; 15] = [
    "add_key",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "migrate_pages",
    "move_pages",
    "nfsservctl",
    "pivot_root",
    "request_key",
    "swapon",
    "userfaultfd",
];

/// The profile for a container with these capabilities, written without `CAP_`.
pub fn runtime_default(capabilities: &[String]) -> Value {
    let has = |needed: &[&str]| needed.iter().any(|name| capabilities.iter().any(|own| own == name));
    let kept_back = CONDITIONAL.iter().filter(|(needed, _)| !has(needed)).flat_map(|(_, calls)| calls.iter());
    let names: Vec<&str> = kept_back.chain(&NEVER).copied().collect();
    let deny = |errno: u32, names: Value, arguments: Value| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": arguments});
    let vsock = json!([{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_EQ"}]);
    let mut rules = vec![deny(EPERM, json!(names), json!([])), deny(EPERM, json!(["socket"]), vsock)];
    if !has(&["SYS_ADMIN"]) {
        // Its flags lie in memory, where no filter looks: C libraries take `clone` instead.
        rules.push(deny(ENOSYS, json!(["clone3"]), json!([])));
        // One bit of them is enough, and a rule compares them all: one rule each.
        for flag in (0..32).map(|bit| 1_u32 << bit).filter(|flag| NAMESPACES & flag != 0) {
            let one = json!([{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}]);
            rules.push(deny(EPERM, json!(["clone"]), one));
        }
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [format!("SCMP_ARCH_{}", std::env::consts::ARCH.to_uppercase())],
        "syscalls": rules,
    })
}
