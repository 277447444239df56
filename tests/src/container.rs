//! Containers of the DaemonSets in `deploy/base`, as a node's runtime starts them, by crun: capabilities, a read-only root,
//! mounts with their propagation, the ConfigMap as environment, seccomp as containerd's default has it. Left out is what only
//! a kubelet does: probes.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};

mod running;
mod seccomp;

use crate::{
    kustomize::render,
    world::{Node, Pod, sluice_binary, tool_path},
};
pub use running::Running;

/// The mounts that every container has. /sys is read-only but where volumes stand, and so is /proc/sys.
const SYSTEM: [(&str, &str, &str); 3] =
    [("/proc", "proc", ""), ("/dev", "tmpfs", "mode=755"), ("/sys", "sysfs", "ro")];

/// What a container has that asks for nothing. Source: `containerd/pkg/oci/spec.go`, `defaultUnixCaps`.
const BY_DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What a runtime makes of `mountPropagation`.
fn propagation(mount: &Value) -> &'static str {
    match mount["mountPropagation"].as_str() {
        Some("HostToContainer") => "rslave",
        Some("Bidirectional") => "rshared",
        Some(_) | None => "rprivate",
    }
}

/// A file below `deploy`.
pub fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

/// The first document of a file below `deploy`.
///
/// # Panics
/// It is not YAML.
pub fn read(file: &str) -> Value {
    let text = fs::read_to_string(deploy(file)).expect("a file of deploy/");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Where a container's files come from.
#[derive(Clone, Debug)]
pub enum Root {
    /// This machine's libraries and the binary under test.
    Machine,
    /// An unpacked image.
    Image(PathBuf),
}

/// A container that can be started on a node.
pub struct Container<'n> {
    node: &'n Node,
    name: String,
    root: Root,
    spec: Value,
    pod: Value,
    environment: Vec<String>,
    mounts: Vec<Value>,
    /// The node is a container itself, as kind's are: its part of the cgroup hierarchy is all that it sees, and nobody
    /// mounted a bpffs.
    on_kind: bool,
}

impl<'n> Container<'n> {
    /// The container `name` of the DaemonSets; its folders are the world's.
    ///
    /// # Panics
    /// There is none.
    pub fn new(node: &'n Node, name: &str, root: Root) -> Self {
        let pods = ["base/daemonset.yaml", "base/redirector.yaml"]
            .map(|file| read(file)["spec"]["template"]["spec"].clone());
        let of = |pod: &Value| {
            let all = pod["containers"].as_array().expect("containers");
            all.iter().find(|one| one["name"] == name).cloned()
        };
        let found = pods.into_iter().find_map(|pod| of(&pod).map(|spec| (pod, spec)));
        let (pod, spec) = found.expect("a container of that name");
        let literals = read("base/kustomization.yaml")["configMapGenerator"][0]["literals"].clone();
        let literals = literals.as_array().expect("literals");
        let mut environment: Vec<String> =
            literals.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let cgroups = sluice::loader::find_cgroup(None).expect("cgroup v2");
        let cgroup = node.cgroup().strip_prefix(cgroups).expect("a cgroup of this machine");
        environment.push(format!("SLUICE_CGROUP=/sys/fs/cgroup/{}", cgroup.display()));
        environment.push(format!("NODE_NAME={}", node.name));
        environment.push("PATH=/usr/bin:/bin".to_owned());
        Self { node, name: name.to_owned(), root, spec, pod, environment, mounts: Vec::new(), on_kind: false }
    }

    /// The same of the overlay for kind, init containers too, on a node as kind makes them.
    ///
    /// # Panics
    /// There is none.
    pub fn of_kind(node: &'n Node, name: &str, root: Root) -> Self {
        let objects = render("overlays/kind");
        let of =
            |kind: &str| objects.iter().filter(|object| object["kind"] == kind).cloned().collect::<Vec<_>>();
        let mut pods = of("DaemonSet").into_iter().map(|daemon| daemon["spec"]["template"]["spec"].clone());
        let named = |pod: &Value| {
            let lists = [&pod["initContainers"], &pod["containers"]].map(Value::as_array);
            lists.into_iter().flatten().flatten().find(|one| one["name"] == name).cloned()
        };
        let found = pods.find_map(|pod| Some((named(&pod)?, pod)));
        let (spec, pod) = found.expect("a container of that name");
        let config = of("ConfigMap")[0]["data"].clone();
        let config = config.as_object().expect("a ConfigMap").iter();
        let mut environment: Vec<String> =
            config.map(|(name, value)| format!("{name}={}", value.as_str().expect("text"))).collect();
        environment.push(format!("NODE_NAME={}", node.name));
        environment.push("PATH=/usr/bin:/bin".to_owned());
        Self { node, name: name.to_owned(), root, spec, pod, environment, mounts: Vec::new(), on_kind: true }
    }

    /// A container of somebody's pod on that node, of user root with what runtimes give by default: capabilities, a filter of
    /// system calls, namespaces of its own. It runs these words.
    pub fn of_a_stranger(node: &'n Node, words: &[&str], seccomp: &str) -> Self {
        let (program, arguments) = words.split_first().expect("a program");
        let spec = json!({
            "command": [program],
            "args": arguments,
            "volumeMounts": [],
            "securityContext": {
                "readOnlyRootFilesystem": false,
                "seccompProfile": {"type": seccomp},
                "capabilities": {"drop": ["ALL"], "add": BY_DEFAULT},
            },
        });
        let environment = vec!["PATH=/usr/bin:/bin".to_owned()];
        let (name, pod) = ("stranger".to_owned(), json!({"volumes": []}));
        Self { node, name, root: Root::Machine, spec, pod, environment, mounts: Vec::new(), on_kind: false }
    }

    /// With a variable of another value.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|one| !one.starts_with(&format!("{name}=")));
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// With a folder of this machine besides, read-only.
    pub fn mount(mut self, source: &Path, destination: &str) -> Self {
        self.mounts.push(bind(source, destination, &["rbind", "ro"]));
        self
    }

    fn is_privileged(&self) -> bool {
        self.spec["securityContext"]["privileged"] == true
    }

    /// The capabilities that the DaemonSet gives it, without `CAP_`. Of a privileged one those that matter.
    pub fn capabilities(&self) -> Vec<String> {
        if self.is_privileged() {
            return vec!["SYS_ADMIN".to_owned()];
        }
        let added = self.spec["securityContext"]["capabilities"]["add"].as_array();
        added.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Without one of them.
    pub fn without(mut self, capability: &str) -> Self {
        let added = &mut self.spec["securityContext"]["capabilities"]["add"];
        added.as_array_mut().expect("capabilities").retain(|one| one != capability);
        self
    }

    /// With one besides.
    pub fn with(mut self, capability: &str) -> Self {
        let added = &mut self.spec["securityContext"]["capabilities"]["add"];
        added.as_array_mut().expect("capabilities").push(capability.into());
        self
    }

    /// Starts it in the node's network.
    pub fn start(self) -> Running {
        let id = self.name.clone();
        let folder = self.node.folder().join(format!("container-{id}"));
        let _of_an_earlier_start = fs::remove_dir_all(&folder);
        let root = folder.join("root");
        fs::create_dir_all(&root).expect("a folder");
        let root = match &self.root {
            Root::Machine => root,
            Root::Image(image) => image.clone(),
        };
        let config = self.config(&root);
        fs::write(folder.join("config.json"), config.to_string()).expect("a file");
        let place = self.place();
        // A runtime asks for a hierarchy of cgroup v2 alone, as nodes have it; this machine may have both.
        let hierarchy = "mount -t tmpfs cgroups /sys/fs/cgroup && mount -t cgroup2 cgroups /sys/fs/cgroup";
        let node = Pod { cgroup: self.node.cgroup().to_owned(), ..place.clone() };
        let (mut command, script) = if self.on_kind {
            // What a container mounts for the node is to reach it; what is mounted here for crun is not.
            let script = format!(
                "mount --make-rprivate /sys && {hierarchy} && echo $$ > /sys/fs/cgroup/container-{id}/cgroup.procs && \
                 exec \"$@\""
            );
            let mut command = node.command("unshare");
            command.args(["--cgroup", "--mount", "--propagation", "unchanged"]);
            (command, script)
        } else {
            let mut command = place.command("unshare");
            command.arg("--mount");
            (command, format!("mount --make-rprivate / && {hierarchy} && exec \"$@\""))
        };
        command.args(["sh", "-c", &script, "sh"]).arg(tool_path("crun"));
        command.arg("--root").arg(folder.join("state")).args([
            "--cgroup-manager=disabled",
            "run",
            "--bundle",
        ]);
        command.arg(&folder).arg(format!("{}-{id}", self.node.host.netns));
        let log = folder.join("log");
        let file = File::create(&log).expect("a file");
        let errors = file.try_clone().expect("a second descriptor");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        Running { child: child.expect("crun starts"), cgroup: place.cgroup, log }
    }

    /// The node's network with a cgroup of the container's own.
    fn place(&self) -> Pod {
        let mut place = self.node.host.clone();
        place.cgroup = self.node.cgroup().join(format!("container-{}", self.name));
        let _there_already = fs::create_dir(&place.cgroup);
        place
    }

    /// Source: `runtime-spec/config.md`; what a runtime does with a pod's fields, `containerd/internal/cri`.
    fn config(&self, root: &Path) -> Value {
        let security = &self.spec["securityContext"];
        assert!(self.is_privileged() || security["capabilities"]["drop"] == json!(["ALL"]));
        let capabilities: Vec<String> =
            self.capabilities().iter().map(|capability| format!("CAP_{capability}")).collect();
        let binary = match &self.root {
            Root::Machine => "/sluice",
            Root::Image(_) => "/usr/bin/sluice",
        };
        let arguments = self.spec["args"].as_array().expect("args");
        let command = self.spec["command"].as_array().cloned().unwrap_or_else(|| vec![json!(binary)]);
        let words: Vec<Value> = command.into_iter().chain(arguments.iter().cloned()).collect();
        let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "ipc"}), json!({"type": "uts"})];
        if self.pod["hostPID"] != true {
            namespaces.push(json!({"type": "pid"}));
        }
        if self.on_kind {
            namespaces.push(json!({"type": "cgroup"}));
        }
        let mounts = self.all_mounts();
        let reaches = |how: &str| mounts.iter().any(|mount| mount["options"].to_string().contains(how));
        // As containerd does it for the widest propagation that a volume asks for.
        let widest = ["rshared", "rslave"].into_iter().find(|how| reaches(how)).unwrap_or("rprivate");
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "cwd": "/",
                "args": words,
                "env": self.environment,
                "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": root, "readonly": security["readOnlyRootFilesystem"]},
            "mounts": mounts,
            "linux": {
                "rootfsPropagation": widest,
                "namespaces": namespaces,
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        if let Some(filter) = self.filter() {
            config["linux"]["seccomp"] = filter;
        }
        config
    }

    /// By the container's own profile, or the pod's.
    fn filter(&self) -> Option<Value> {
        if self.is_privileged() {
            return None;
        }
        let own = self.spec["securityContext"]["seccompProfile"]["type"].as_str();
        match own.or(self.pod["securityContext"]["seccompProfile"]["type"].as_str()) {
            Some("RuntimeDefault") => Some(seccomp::runtime_default(&self.capabilities())),
            Some("Unconfined") | None => None,
            Some(other) => panic!("no test knows the seccomp profile {other}"),
        }
    }

    fn all_mounts(&self) -> Vec<Value> {
        let system = SYSTEM.map(|(destination, kind, option)| {
            let options: Vec<&str> = ["nosuid", option].into_iter().filter(|word| !word.is_empty()).collect();
            json!({"destination": destination, "type": kind, "source": kind, "options": options})
        });
        let mut mounts = system.to_vec();
        let volumes = self.pod["volumes"].as_array().expect("volumes");
        for mount in self.spec["volumeMounts"].as_array().expect("volumeMounts") {
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("its volume");
            let access = if mount["readOnly"] == true { "ro" } else { "rw" };
            let source = self.here(volume["hostPath"]["path"].as_str().expect("a path of the node"));
            let destination = mount["mountPath"].as_str().expect("mountPath");
            mounts.push(bind(&source, destination, &["rbind", propagation(mount), access]));
        }
        if matches!(self.root, Root::Machine) {
            let folders = ["/usr", "/bin", "/lib", "/lib64"].map(Path::new);
            let libraries = folders.into_iter().filter(|folder| folder.exists());
            mounts.extend(
                libraries.map(|folder| bind(folder, &folder.display().to_string(), &["rbind", "ro"])),
            );
            mounts.push(bind(&sluice_binary(), "/sluice", &["bind", "ro"]));
        }
        mounts.extend(self.mounts.iter().cloned());
        mounts
    }

    /// What stands in for a folder of the node in this world.
    fn here(&self, path: &str) -> PathBuf {
        match path {
            "/sys/fs/bpf" => {
                let folder = self.node.bpffs();
                fs::create_dir_all(&folder).expect("a folder");
                if self.on_kind {
                    mount_shared(&folder)
                } else {
                    mount_bpffs(&folder)
                }
                folder
            }
            "/run/sluice" => {
                let folder = self.node.folder().join("run");
                fs::create_dir_all(&folder).expect("a folder");
                folder
            }
            other => PathBuf::from(other),
        }
    }
}

/// A bpffs at `folder`, as systemd mounts one; the world's sweep takes it away.
fn mount_bpffs(folder: &Path) {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let stat = rustix::fs::statfs(folder).expect("a folder");
    if stat.f_type as i64 != BPF_FS_MAGIC {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("bpf", folder, "bpf", flags, None).expect("a bpffs");
    }
}

/// A folder whose mounts are those of other mount namespaces too, as all of a node's are; the world's sweep takes it away.
fn mount_shared(folder: &Path) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let above = folder.parent().expect("a folder above");
    let device = |folder: &Path| rustix::fs::stat(folder).expect("a folder").st_dev;
    if device(folder) == device(above) {
        mount("sys", folder, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        mount_change(folder, MountPropagationFlags::SHARED).expect("a shared mount");
    }
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}
