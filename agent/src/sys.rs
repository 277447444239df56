//! The agent's only `unsafe`: bpf(2) commands that aya 0.14 does not offer, and what else std and rustix do not.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use bytemuck::Pod;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// The network namespace that a link of an sk_lookup program is attached to, by inode number; 0 once it is gone.
///
/// # Errors
/// The kernel's error.
pub fn netns_of_link(link: BorrowedFd<'_>) -> io::Result<u32> {
    // `struct bpf_link_info` has the same head for each kind of link; here follow `netns_ino` and `attach_type`.
    cgroup_link_info(link).map(|info| info.cgroup_id as u32)
}

/// The device that a link of a tc or XDP program is attached to, by interface index; 0 once it is gone.
///
/// # Errors
/// The kernel's error.
pub fn device_of_link(link: BorrowedFd<'_>) -> io::Result<u32> {
    // As above: `tcx.ifindex` and `xdp.ifindex` stand behind the head.
    cgroup_link_info(link).map(|info| info.cgroup_id as u32)
}

/// What the kernel says of a cgroup link. Source: `struct bpf_link_info`, `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    /// The program that runs.
    pub program_id: u32,
    pad: u32,
    /// Inode number of the cgroup's folder; 0 once the cgroup is gone.
    pub cgroup_id: u64,
    attach_type: u32,
    pad2: u32,
}
const _: () = assert!(size_of::<CgroupLinkInfo>() == 32);

#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct ObjInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Opens what is pinned at `path`.
///
/// # Errors
/// The kernel's error; `NotFound` if nothing is pinned there.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    // SAFETY: `bpf` returned no error, so that `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a cgroup link is attached to.
///
/// # Errors
/// The kernel's error.
pub fn cgroup_link_info(link: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    let mut info = CgroupLinkInfo::default();
    let mut attr = ObjInfo {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: size_of::<CgroupLinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Makes `link` run `program` from now on, in one step; connections under way do not notice.
///
/// # Errors
/// The kernel's error, such as `EINVAL` for a program of another type.
pub fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// The head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
}

#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Everything that a hash map holds, a few thousand entries with each system call. Entries that come or go meanwhile may
/// be among them or not; none is there twice.
///
/// # Errors
/// The kernel's error; `InvalidInput` if keys or values of the map have other sizes.
pub fn entries<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut found = Vec::new();
    batches(map, |keys: &[K], values: &[V]| found.extend(keys.iter().copied().zip(values.iter().copied())))?;
    Ok(found)
}

/// How many entries a hash map holds; none of them is kept.
///
/// # Errors
/// The kernel's error; `InvalidInput` if keys or values of the map have other sizes.
pub fn count<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count = 0;
    batches(map, |keys: &[K], _: &[V]| count += keys.len() as u64)?;
    Ok(count)
}

fn batches<K: Pod, V: Pod>(map: BorrowedFd<'_>, mut take: impl FnMut(&[K], &[V])) -> io::Result<()> {
    let mut info = MapInfo::default();
    let mut attr = ObjInfo {
        bpf_fd: map.as_raw_fd().cast_unsigned(),
        info_len: size_of::<MapInfo>() as u32,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    if (info.key_size as usize, info.value_size as usize) != (size_of::<K>(), size_of::<V>()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the map is of another version's layout"));
    }
    let (mut room, mut position) = (4_096_usize, None);
    let (mut keys, mut values) = (vec![K::zeroed(); room], vec![V::zeroed(); room]);
    loop {
        let mut next = 0_u64;
        let mut attr = Batch {
            in_batch: position.as_ref().map_or(0, |position: &u64| &raw const *position as u64),
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
        let is_last = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // One bucket holds more than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                (keys, values) = (vec![K::zeroed(); room], vec![V::zeroed(); room]);
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = (attr.count as usize).min(room);
        take(&keys[..count], &values[..count]);
        if is_last {
            return Ok(());
        }
        position = Some(next);
    }
}

/// The cookie of this thread's network namespace, as `bpf_get_netns_cookie` gives it.
///
/// # Errors
/// The kernel's error; `SO_NETNS_COOKIE` needs Linux 5.14.
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the option writes at most `length` bytes, the size of `cookie`, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// A number in a map that can be written without a system call.
pub struct SharedNumber(NonNull<u64>);

// SAFETY: the mapping is not tied to a thread, and it is only ever accessed atomically.
unsafe impl Send for SharedNumber {}

impl SharedNumber {
    /// Maps the first value of an array map whose values are eight bytes, made with `BPF_F_MMAPABLE`. Stays mapped for
    /// as long as the process lives.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(Self).ok_or_else(|| io::Error::other("mapped at nowhere"))
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.number().load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.number().store(value, Ordering::Relaxed);
    }

    /// Sets it if it is `current`; whether it was.
    pub fn replace(&self, current: u64, value: u64) -> bool {
        self.number().compare_exchange(current, value, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn number(&self) -> &AtomicU64 {
        // SAFETY: the mapping is never taken back, is page-aligned, and is only ever accessed atomically.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr()) }
    }
}

/// Puts `program` before every system call of every thread of this process, and logs what it refuses.
///
/// # Errors
/// The kernel's error, such as `EACCES` without `no_new_privs`, or `ESRCH` if a thread has a filter of its own.
pub fn filter_system_calls(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = program.len().try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC
        | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
        | libc::SECCOMP_FILTER_FLAG_LOG;
    // SAFETY: `program` names a live slice by its own length; the kernel copies it and writes nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives memory that nothing uses back to the system. glibc does so by itself only for what lies at the end of a heap.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers; glibc locks each heap for as long as it looks through it.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attr` is a live `repr(C)` prefix of `union bpf_attr` for this command, and its size is passed;
    // the addresses in it point to values that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}
