//! Which system calls the redirector makes, and which nobody but an intruder would. Lists only; what is done with them is
//! beside this.

use libc::c_long;

use super::Limit::{self, Bits, Is, NoBits, Null};

/// Families and types of sockets, `include/linux/net.h`.
const INET: u64 = 2;
const INET6: u64 = 10;
const UNIX: u64 = 1;
const NETLINK: u64 = 16;
const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
/// The type without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const TYPE: u64 = 0xf;
const ROUTE: u64 = 0;
const THREAD: u64 = libc::CLONE_THREAD as u64;
const EXECUTABLE: u64 = libc::PROT_EXEC as u64;
const WRITING: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
const FIONBIO: u64 = 0x5421;
const FIONREAD: u64 = 0x541b;
/// `PR_SET_VMA`: names of mappings, which newer C libraries give.
const SET_VMA: u64 = 0x5356_4d41;

/// Calls that are allowed whatever their arguments.
pub const ALLOWED: &[c_long] = &[
    // Connections.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // What is open.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    // The resolver's files: which there are, and as of when.
    libc::SYS_faccessat,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    // Memory and threads.
    libc::SYS_brk,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Time, chance, who we are.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_nanosleep,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Answered as if the kernel were older, by a filter of its own: what it starts lies in memory, where no filter looks.
    libc::SYS_clone3,
];

/// Older forms that architectures after x86-64 do not have.
#[cfg(target_arch = "x86_64")]
pub const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
/// Older forms that architectures after x86-64 do not have.
#[cfg(not(target_arch = "x86_64"))]
pub const ALLOWED_HERE: &[c_long] = &[];

/// Calls that are allowed if each of these arguments is as said. One of several lines for a call is enough.
pub fn allowed_if(own_pid: u32) -> Vec<(c_long, Vec<(u8, Limit)>)> {
    let socket = |family, kind| (libc::SYS_socket, vec![(0, Is(family)), (1, Bits(TYPE, kind))]);
    vec![
        // CAP_NET_RAW is for IP_TRANSPARENT: no packet sockets, and none that make headers of their own.
        socket(INET, STREAM),
        socket(INET, DATAGRAM),
        socket(INET6, STREAM),
        socket(INET6, DATAGRAM),
        socket(UNIX, STREAM),
        socket(UNIX, DATAGRAM),
        (libc::SYS_socketpair, vec![(0, Is(UNIX))]),
        // The resolver asks which families this node has addresses of.
        (libc::SYS_socket, vec![(0, Is(NETLINK)), (2, Is(ROUTE))]),
        // Threads, and no processes.
        (libc::SYS_clone, vec![(0, Bits(THREAD, THREAD))]),
        // No new code, and no files but to read.
        (libc::SYS_mmap, vec![(2, NoBits(EXECUTABLE))]),
        (libc::SYS_mprotect, vec![(2, NoBits(EXECUTABLE))]),
        (libc::SYS_openat, vec![(2, NoBits(WRITING))]),
        (libc::SYS_ioctl, vec![(1, Is(FIONBIO))]),
        (libc::SYS_ioctl, vec![(1, Is(FIONREAD))]),
        (libc::SYS_prctl, vec![(0, Is(libc::PR_SET_NAME as u64))]),
        (libc::SYS_prctl, vec![(0, Is(SET_VMA))]),
        // Limits are read, of this process.
        (libc::SYS_prlimit64, vec![(0, Is(0)), (2, Null)]),
        // To end itself in a panic; nobody else who is nobody.
        (libc::SYS_tgkill, vec![(0, Is(own_pid.into()))]),
    ]
}

/// What no code of ours or of a library under it makes: somebody else decides what runs here.
pub const INTRUDERS: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_memfd_create,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];
