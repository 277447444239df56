//! Brings the kernel programs up: checks, pins, adoption of what an earlier agent left, attachment, removal.

use std::{
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, Program, links::FdLink},
};

use crate::{
    capabilities::Capabilities,
    maps::{
        Pins, SPECS, Sizes,
        bpf::{BpfMaps, ServiceBytes},
    },
    sys,
};

mod checks;
mod clsact;
mod counting;
mod devices;
mod features;
mod lock;
mod mounts;
mod pins;
mod programs;
mod renew;
mod steering;
mod trial;

pub use checks::{find_cgroup, lives_in};
pub use counting::counted_cgroup;
pub use devices::{DeviceAttachment, Point, Tc, device_attachments};
pub use features::{Kernel, Lacking};
pub use lock::{Lock, WatchLock, holder};
pub use pins::{cleanup, mount};
pub use steering::{is_steering, steered_netns};
pub use trial::{Trial, trial};

use programs::program;
use renew::Renewal;

/// The object, compiled from `ebpf/`; empty in a binary that was built without it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.o"));

/// The hooks, each a program of the same name in `ebpf/src/hooks/`.
pub const HOOKS: [&str; 10] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "post_bind4",
    "post_bind6",
];

/// The program that is attached to the network namespace of the node; its name and its pin's.
pub const STEERING: &str = "steer_lookup";

/// The program that counts bytes of connections; its name and its pin's.
pub const COUNTING: &str = "count_bytes";

/// The program at the XDP hook of the node's devices.
pub const EARLY: &str = "early";

/// The programs at devices.
const AT_DEVICES: [&str; 5] = ["from_network", "to_network", "from_pod", "to_pod", EARLY];

/// Programs in the kernel, verified, not yet attached.
pub struct Loaded {
    ebpf: Ebpf,
    pins: Pins,
    cgroup: PathBuf,
    replaces: bool,
    counts_bytes: bool,
    renewal: Renewal,
    _lock: Lock,
}

/// A program as it is attached.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// One of [`HOOKS`].
    pub hook: &'static str,
    /// The cgroup.
    pub target: PathBuf,
    /// The kernel's id of the program, if the link is there and its cgroup too.
    pub program_id: Option<u32>,
}

/// The right to load: the machine has what it takes, and no other agent runs on these pins.
pub struct Claim {
    pins: Pins,
    cgroup: PathBuf,
    counts_bytes: bool,
    lock: Lock,
}

impl Claim {
    /// The same, to count what connections to Services send and receive too, or not.
    #[must_use]
    pub fn counting_bytes(self, counts_bytes: bool) -> Self {
        Self { counts_bytes, ..self }
    }

    /// The cgroup that will be attached to.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }
}

/// Checks the machine and takes the lock on the pins. Nothing that runs changes yet.
///
/// # Errors
/// What is missing on this machine, or which other agent holds the pins.
pub fn claim(bpffs: &Path, cgroup: Option<&Path>) -> Result<Claim> {
    if OBJECT.is_empty() {
        bail!("this binary was built without its eBPF programs; build it with `cargo xtask build`");
    }
    Capabilities::effective()?.for_loading()?;
    checks::kernel()?;
    let cgroup = find_cgroup(cgroup)?;
    let pins = pins::create(bpffs)?;
    let lock = Lock::take(bpffs)?;
    Ok(Claim { pins, cgroup, counts_bytes: false, lock })
}

/// Loads the programs and makes or adopts their maps. What runs goes on as it did.
///
/// # Errors
/// What the kernel or its verifier said.
pub fn load(claim: Claim, sizes: &Sizes) -> Result<Loaded> {
    let Claim { pins, cgroup, counts_bytes, lock } = claim;
    let renewal = Renewal::prepare(&pins, sizes)?;
    let replaces = renewal.fills_first && HOOKS.iter().any(|hook| pins.link(hook).exists());
    let mut loader = EbpfLoader::new();
    let paths: Vec<PathBuf> = SPECS.iter().map(|spec| pins.map(spec.name)).collect();
    for (spec, path) in SPECS.iter().zip(&paths) {
        loader.map_pin_path(spec.name, path.as_path());
        if let Some(capacity) = (spec.capacity)(sizes) {
            loader.map_max_entries(spec.name, capacity);
        }
    }
    // Room by the limit, not by need: none where nothing is counted.
    loader.map_max_entries(ServiceBytes::NAME, if counts_bytes { sizes.max_services } else { 1 });
    let mut ebpf = loader.load(OBJECT).context("cannot load the eBPF object")?;
    renewal.fill(&pins)?;
    programs::load_all(&mut ebpf, counts_bytes)?;
    Ok(Loaded { ebpf, pins, cgroup, replaces, counts_bytes, renewal, _lock: lock })
}

impl Loaded {
    /// The pinned maps.
    ///
    /// # Errors
    /// A pin cannot be opened.
    pub fn maps(&self) -> Result<BpfMaps> {
        BpfMaps::open(&self.pins)
    }

    /// The pins.
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// A program, to run it on packets of one's own; `None` if there is none of that name.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.ebpf.program(name)
    }

    /// The cgroup that [`Self::attach`] attaches to.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Puts back folders and map pins that somebody removed: the maps themselves live on in the programs.
    ///
    /// # Errors
    /// A folder cannot be made, or the file system for BPF is gone.
    pub fn restore_pins(&self) -> Result<()> {
        pins::create(self.pins.root())?;
        for spec in SPECS {
            let path = self.pins.map(spec.name);
            if let Some(map) = self.ebpf.map(spec.name).filter(|_| !path.exists()) {
                map.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The hooks that are not attached, or not to our cgroup.
    pub fn missing(&self) -> Vec<&'static str> {
        let attachments = attachments(&self.pins, Some(&self.cgroup));
        let missing =
            attachments.iter().filter(|item| item.program_id.is_none() || item.target != self.cgroup);
        missing.map(|item| item.hook).collect()
    }

    /// Whether an earlier agent's programs run on maps that ours replaced, because a size or layout differs.
    pub const fn has_predecessor(&self) -> bool {
        self.replaces
    }

    /// Makes every hook run this binary's programs: in place where a link exists, by a new link elsewhere.
    ///
    /// # Errors
    /// Names the hook; the hooks before it run already, and those after it run what they ran before.
    pub fn attach(&mut self) -> Result<()> {
        let folder = std::fs::File::open(&self.cgroup)
            .with_context(|| format!("cannot open the cgroup {}", self.cgroup.display()))?;
        let cgroup_id = folder.metadata()?.ino();
        self.restore_pins()?;
        // All that is remembered, and then what came while that was copied.
        for _ in 0..2 {
            self.carry(false);
        }
        for hook in HOOKS {
            let pin = self.pins.link(hook);
            let program = program(&mut self.ebpf, hook)?;
            attach_one(program, &pin, &folder, cgroup_id)
                .with_context(|| format!("cannot attach {hook} to the cgroup {}", self.cgroup.display()))?;
        }
        match pins::remove_strangers(&self.pins) {
            Ok(gone) => gone.iter().for_each(|file| {
                tracing::warn!(pin = %file.display(), "removed what an agent of another release left");
            }),
            Err(error) => tracing::warn!("what an agent of another release left is still there: {error:#}"),
        }
        Ok(())
    }
}

impl Loaded {
    /// After programs were attached: takes over what the earlier ones stored meanwhile, and, when all are ours (`done`), lets
    /// go of the maps that those used.
    pub fn settle(&mut self, done: bool) {
        if !self.renewal.is_under_way() {
            return;
        }
        self.carry(true);
        if let Err(error) = self.renewal.release(&self.pins) {
            tracing::warn!("maps of an earlier agent are still pinned: {error:#}");
        }
        if done {
            self.renewal.finish();
        }
    }

    fn carry(&mut self, in_use: bool) {
        if let Err(error) = self.renewal.carry(&self.pins, in_use) {
            tracing::warn!("some of what an earlier agent's maps remember is lost: {error:#}");
        }
    }
}

/// The cookie of this process's network namespace, by which programs know the node's own processes.
///
/// # Errors
/// The kernel does not tell.
pub fn netns_cookie() -> Result<u64> {
    sys::netns_cookie().context("cannot learn the cookie of this network namespace")
}

/// What is attached, as the pins tell; needs no agent.
pub fn attachments(pins: &Pins, cgroup: Option<&Path>) -> Vec<Attachment> {
    let wanted = find_cgroup(cgroup).ok();
    let root = find_cgroup(None).ok();
    let place = |id: u64| [&wanted, &root].into_iter().flatten().find_map(|folder| cgroup_of(folder, id));
    HOOKS
        .map(|hook| {
            let info = sys::pinned(&pins.link(hook)).and_then(|link| sys::cgroup_link_info(link.as_fd()));
            let info = info.ok().filter(|info| info.cgroup_id != 0);
            let target = info.and_then(|info| {
                place(info.cgroup_id).or_else(|| Some(PathBuf::from(format!("cgroup id {}", info.cgroup_id))))
            });
            Attachment {
                hook,
                target: target.unwrap_or_default(),
                program_id: info.map(|info| info.program_id),
            }
        })
        .to_vec()
}

/// The folder at or below `folder` whose inode number is `id`.
fn cgroup_of(folder: &Path, id: u64) -> Option<PathBuf> {
    if std::fs::metadata(folder).ok()?.ino() == id {
        return Some(folder.to_owned());
    }
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).find_map(|child| cgroup_of(&child, id))
}

/// Attaches by a new link. A link allows several programs by itself; this kernel refuses flags with it.
fn link_one(program: &mut Program, folder: &std::fs::File) -> Result<FdLink> {
    match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(folder, CgroupAttachMode::Single)?;
            Ok(program.take_link(id)?.try_into()?)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(folder, CgroupAttachMode::Single)?;
            Ok(program.take_link(id)?.try_into()?)
        }
        Program::SockOps(program) => {
            let id = program.attach(folder, CgroupAttachMode::Single)?;
            Ok(program.take_link(id)?.try_into()?)
        }
        other => bail!("a hook of type {:?} is not known here", other.prog_type()),
    }
}

fn attach_one(program: &mut Program, pin: &Path, folder: &std::fs::File, cgroup_id: u64) -> Result<()> {
    if let Ok(link) = sys::pinned(pin)
        && sys::cgroup_link_info(link.as_fd())?.cgroup_id == cgroup_id
    {
        let fd = program.fd()?;
        return Ok(sys::replace_program(link.as_fd(), fd.as_fd())?);
    }
    let link = link_one(program, folder)?;
    // A pin of another or a dead cgroup gives way only now, when the new link runs.
    match std::fs::remove_file(pin) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot remove the old pin"),
    }
    link.pin(pin)?;
    Ok(())
}
