//! The command line. Reading commands work from the pinned maps, so that they need no agent.

use std::{io::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use ipnet::IpNet;

use crate::{devices, harmless, k8s, loader, maps::Sizes, redirector, run};

mod ask;
mod check;
mod client;
mod clients;
mod connections;
mod definitions;
mod environment;
mod limits;
mod log;
mod manuals;
mod monitor;
mod output;
mod read;
mod request;
mod route;
mod status;
mod verify;

use output::Format;

/// Node-level service proxy: Services translated in the kernel by eBPF, inspected from here.
#[derive(Parser)]
#[command(name = "sluice", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the agent
    Run(RunArgs),
    /// Runs the redirector, which applies HTTP, TLS and TCP rules to what the kernel steers to it
    Redirector(RedirectorArgs),
    /// One screen: healthy, or what is wrong
    Status(Reading),
    /// Services as the maps have them, with endpoints and who is used
    Service {
        /// `NAMESPACE/NAME`; all without it
        name: Option<String>,
        #[command(flatten)]
        reading: Reading,
    },
    /// Addresses and ports that clients dial
    Frontend(Reading),
    /// Pod addresses and ports that Services lead to
    Backend(Reading),
    /// Which client keeps which endpoint
    Affinity(Reading),
    /// Connections that the packet path remembers
    Conntrack(connections::Connections),
    /// Connections that go on under an address and port of the node
    Nat(connections::Connections),
    /// What became of each object: accepted, or rejected and why
    Config(Reading),
    /// How often each outcome was counted, and what it means
    Reasons(Reading),
    /// Live translations, rejects and drops, each with its reason, until Ctrl-C
    Monitor(monitor::Monitor),
    /// The decision for one connection, step by step
    Explain {
        /// Who dials: a pod of this node (`[NAMESPACE/]NAME`), an address of whoever it may be, `ADDRESS:PORT`, or `host`
        #[arg(long, default_value = "host", value_parser = request::client)]
        from: String,
        /// About packets of a socket that no hook sees: the kernel's own (NFS, SMB), a virtual machine's, a nested namespace's
        #[arg(long)]
        packets: bool,
        /// `ADDRESS:PORT[/udp]`, `NAMESPACE/NAME[:PORT]` or `NAME.NAMESPACE[:PORT]`, or a request:
        /// `http://ADDRESS[:PORT]/PATH` or `http://NAME.NAMESPACE[:PORT]/PATH`
        destination: request::Asked,
        /// Method of the request
        #[arg(long, default_value = "GET")]
        method: String,
        /// Header of the request, `NAME:VALUE`; repeatable
        #[arg(long, value_parser = request::header)]
        header: Vec<(http::HeaderName, http::HeaderValue)>,
        /// The agent's `--run-dir`
        #[arg(long, default_value = "/run/sluice")]
        run_dir: PathBuf,
        #[command(flatten)]
        reading: Reading,
    },
    /// The ports that the redirector serves, and which rules hold for them
    Route {
        /// The agent's `--run-dir`
        #[arg(long, default_value = "/run/sluice")]
        run_dir: PathBuf,
        #[command(flatten)]
        reading: Reading,
    },
    /// Validates manifests offline: every finding with file, line, object and path
    Check {
        /// Files and folders
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Try on this kernel whether it takes the eBPF programs, and at what cost to its verifier; attaches nothing
    Verify {
        /// How to print
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Detaches every program and removes every pin
    Cleanup {
        #[arg(long, default_value = "/sys/fs/bpf/sluice")]
        bpffs: PathBuf,
        /// Removes what kube-proxy left on this node instead: iptables, nftables, IPVS. Sluice stays as it is
        #[arg(long)]
        kube_proxy: bool,
        /// The node's root folder, whose iptables and nft are used: a container has none
        #[arg(long, requires = "kube_proxy")]
        host_root: Option<PathBuf>,
    },
    /// Mounts a bpffs for pins where the node has none: for an init container, whose mounts reach the node
    Mount {
        #[arg(long, default_value = "/sys/fs/bpf/sluice")]
        bpffs: PathBuf,
    },
    /// Prints the definitions of rule objects, for clusters without Istio
    Crds {
        /// virtualservices or destinationrules; both without it
        plural: Option<String>,
    },
    /// Prints what makes a shell complete commands and flags
    Completions { shell: clap_complete::Shell },
    /// Writes a man page for each command
    Man { folder: PathBuf },
    /// Prints every command and flag, in Markdown
    #[command(hide = true)]
    Reference,
    /// The agent's self-probe, in a process of its own
    #[command(hide = true)]
    ProbeConnect { target: SocketAddr, cgroup: PathBuf },
}

#[derive(Args)]
struct RunArgs {
    /// Objects from YAML files or folders, watched for changes
    #[arg(long, num_args = 1.., conflicts_with_all = ["kubeconfig", "api_server"])]
    manifests: Vec<PathBuf>,
    /// Objects from the API server of this kubeconfig (in-cluster configuration without it)
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// URL of an API server, never its cluster IP, which works only through this agent; give several, or a list
    /// separated by commas, to fail over
    #[arg(long, value_delimiter = ',')]
    api_server: Vec<String>,
    /// Seconds without a word from the API server after which a connection to it is given up
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=3_600))]
    api_silence: u16,
    /// Name of this node [default: the host name]
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,
    /// Cgroup whose sockets are served [default: the cgroup v2 root]
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Folder of pins, on a bpffs
    #[arg(long, default_value = "/sys/fs/bpf/sluice")]
    bpffs: PathBuf,
    /// Address for state and metrics
    #[arg(long, default_value = "127.0.0.1:10249")]
    admin: SocketAddr,
    /// Address for health checks, `[::]` for clients of both IP families; others behind it, separated by commas, as soon as
    /// nobody else has them
    #[arg(long, default_value = "[::]:10256", value_delimiter = ',')]
    healthz: Vec<SocketAddr>,
    /// Seconds that an update may take to reach the maps before health checks fail
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=3_600))]
    sync_timeout: u16,
    /// Serve NodePorts on these addresses of the node: `primary`, or networks such as 10.0.0.0/8,fd00::/8
    #[arg(long, default_value = "primary")]
    nodeport_addresses: run::Selector,
    /// Folder of the redirector's socket and of the last snapshot
    #[arg(long, default_value = "/run/sluice")]
    run_dir: PathBuf,
    /// `auto` starts a redirector once rules need one; `external` leaves that to somebody else
    #[arg(long, value_enum, default_value_t = RedirectorMode::Auto)]
    redirector: RedirectorMode,
    /// While the redirector is away, balance without rules (the default)
    #[arg(long, conflicts_with = "l7_fail_closed")]
    l7_fail_open: bool,
    /// While the redirector is away, refuse connections to Services that rules hold for
    #[arg(long)]
    l7_fail_closed: bool,
    /// Seconds for which connections are kept that were open before rules held for their port, or `never`: they are not
    /// ended
    #[arg(long, default_value = "30", value_name = "SECONDS")]
    l7_grace: run::GraceTime,
    /// Tell in `/metrics` how many connections through packets each Service port has, and bytes by sockets
    #[arg(long)]
    service_metrics: bool,
    /// Devices by which clients outside and other nodes are reached: `auto`, or names separated by commas
    #[arg(long, default_value = "auto")]
    devices: devices::NodeDevices,
    /// Devices of pods, for clients whose sockets have no hook: `none`, `auto`, or a pattern of names such as cali*
    #[arg(long, default_value = "auto")]
    pod_devices: devices::PodDevices,
    /// Look at packets by XDP, before the stack: connections to pods of other nodes go on at once
    #[arg(long, value_enum, default_value_t = devices::Xdp::Off)]
    xdp: devices::Xdp,
    /// How programs are attached to devices at tc: `auto` takes TCX links, and filters at clsact on kernels before 6.6
    #[arg(long, value_enum, default_value_t = loader::Tc::Auto, env = "SLUICE_TC")]
    tc: loader::Tc,
    /// How packets reach pods of other nodes: in this node's name and back by it (`snat`), or in a tunnel, the reply going
    /// straight to the client (`dsr`; `hybrid` for TCP only)
    #[arg(long, value_enum, default_value_t = run::Forwarding::Snat)]
    forwarding: run::Forwarding,
    /// Answer pings of Services' addresses
    #[arg(long, action = clap::ArgAction::Set, default_value_t = true)]
    vip_ping: bool,
    /// Leave TCP connections alone that packets go on with and that began without us: while kube-proxy goes, and for as long
    /// as connections last that it translates
    #[arg(long)]
    beside_kube_proxy: bool,
    /// Whose address endpoints see when a pod of this node asks through the redirector: the pod's, or this node's
    #[arg(long, value_enum, default_value_t = redirector::SourceAddress::Client)]
    upstream_source: redirector::SourceAddress,
    /// Networks that cluster IPs are taken from: packets to their addresses that no Service has are dropped, and do not
    /// travel on; give several, or a list separated by commas
    #[arg(long, value_delimiter = ',')]
    service_cidr: Vec<IpNet>,
    #[command(flatten)]
    sizes: Sizes,
}

/// Who runs the redirector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum RedirectorMode {
    Auto,
    External,
}

/// Flags of `sluice redirector`.
#[derive(Args)]
struct RedirectorArgs {
    /// Folder of the agent's socket and of the last snapshot
    #[arg(long, default_value = "/run/sluice")]
    run_dir: PathBuf,
    /// Folder of pins
    #[arg(long, default_value = "/sys/fs/bpf/sluice")]
    bpffs: PathBuf,
    /// Threads [default: one for each CPU]
    #[arg(long)]
    workers: Option<u32>,
    /// Share of requests that are logged as JSON lines on standard error, 0.0 to 1.0
    #[arg(long)]
    access_log: Option<f64>,
    /// Whose address endpoints see when a pod of this node asks: the pod's, as far as the agent says that replies come
    /// back, for which CAP_NET_RAW is kept; or this node's
    #[arg(long, value_enum, default_value_t = redirector::SourceAddress::Client)]
    upstream_source: redirector::SourceAddress,
    /// When another redirector has taken over and nothing is open any more, `end`, or `wait` to be told so, for whoever would
    /// only start it again
    #[arg(long, value_enum, default_value_t = redirector::OnceReplaced::End)]
    once_replaced: redirector::OnceReplaced,
    /// System calls that the redirector does not need: `enforce` refuses them, and ends it at those that only an intruder
    /// would make; `log` lets the kernel log them; `off` lets them be
    #[arg(long, value_enum, default_value_t = redirector::Confinement::Enforce)]
    seccomp: redirector::Confinement,
    #[command(flatten)]
    limits: limits::Limits,
}

/// Flags of every reading command.
#[derive(Args)]
pub(crate) struct Reading {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Folder of pins
    #[arg(long, default_value = "/sys/fs/bpf/sluice")]
    bpffs: PathBuf,
    /// Where the agent serves its state
    #[arg(long, default_value = "127.0.0.1:10249")]
    admin: SocketAddr,
}

/// Runs the command line. Exit codes: 0 fine, 1 something is wrong that the message names, 2 wrong usage.
pub fn main() -> ExitCode {
    let words = environment::added(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&words).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Run(args) => agent(args).map(|()| true),
        Command::Redirector(args) => redirect(args).map(|()| true),
        Command::Status(reading) => status::status(&reading),
        Command::Service { name, reading } => read::service(name.as_deref(), &reading).map(|()| true),
        Command::Frontend(reading) => read::frontend(&reading).map(|()| true),
        Command::Backend(reading) => read::backend(&reading).map(|()| true),
        Command::Affinity(reading) => read::affinity(&reading).map(|()| true),
        Command::Conntrack(asked) => connections::conntrack(&asked).map(|()| true),
        Command::Nat(asked) => connections::nat(&asked).map(|()| true),
        Command::Config(reading) => read::config(&reading).map(|()| true),
        Command::Reasons(reading) => read::reasons(&reading).map(|()| true),
        Command::Monitor(asked) => monitor::monitor(&asked).map(|()| true),
        Command::Explain { from, packets, destination, method, header, run_dir, reading } => {
            read::explain((from, packets), destination, (method, header), &run_dir, &reading).map(|()| true)
        }
        Command::Route { run_dir, reading } => route::route(&reading, &run_dir).map(|()| true),
        Command::Check { paths, output } => check::check(&paths, output),
        Command::Verify { output } => verify::verify(output),
        Command::Cleanup { kube_proxy: true, host_root, .. } => {
            read::cleanup_kube_proxy(host_root.as_deref()).map(|()| true)
        }
        Command::Cleanup { bpffs, .. } => read::cleanup(&bpffs).map(|()| true),
        Command::Mount { bpffs } => read::mount(&bpffs).map(|()| true),
        Command::Crds { plural } => definitions::print(plural.as_deref()).map(|()| true),
        Command::Completions { shell } => {
            manuals::completions(Cli::command(), shell);
            Ok(true)
        }
        Command::Man { folder } => manuals::man(Cli::command(), &folder).map(|()| true),
        Command::Reference => {
            print!("{}", manuals::reference(environment::added(Cli::command())));
            Ok(true)
        }
        Command::ProbeConnect { target, cgroup } => run::connect_from_cgroup(&cgroup, target).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let text = harmless::message(&format!("{error:#}"));
            // The exit code counts, whether there is room for words or not.
            let _said = writeln!(std::io::stderr(), "error: {text}");
            ExitCode::from(1)
        }
    }
}

fn redirect(args: RedirectorArgs) -> anyhow::Result<()> {
    log::start();
    redirector::run(redirector::ProcessOptions {
        run_dir: args.run_dir,
        bpffs: args.bpffs,
        workers: args.workers,
        once_replaced: args.once_replaced,
        confinement: args.seccomp,
        options: args.limits.set(redirector::Options {
            access_log: args.access_log,
            source: args.upstream_source,
            ..redirector::Options::default()
        }),
    })
}

fn agent(args: RunArgs) -> anyhow::Result<()> {
    log::start();
    let host_name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    run::run(run::Options {
        manifests: args.manifests,
        kubernetes: k8s::Options {
            kubeconfig: args.kubeconfig,
            api_servers: args.api_server,
            silence: Duration::from_secs(args.api_silence.into()),
        },
        node_name: args.node_name.unwrap_or_else(host_name),
        cgroup: args.cgroup,
        bpffs: args.bpffs,
        admin: args.admin,
        healthz: args.healthz,
        sync_timeout: Duration::from_secs(args.sync_timeout.into()),
        nodeport_addresses: args.nodeport_addresses,
        run_dir: args.run_dir,
        external_redirector: args.redirector == RedirectorMode::External,
        l7_fail_closed: args.l7_fail_closed,
        l7_grace: args.l7_grace,
        service_metrics: args.service_metrics,
        packets: run::Packets {
            node_devices: args.devices,
            pod_devices: args.pod_devices,
            xdp: args.xdp,
            tc: args.tc,
            forwarding: args.forwarding,
            vip_ping: args.vip_ping,
            beside_others: args.beside_kube_proxy,
            keep_clients: args.upstream_source == redirector::SourceAddress::Client,
            service_cidrs: args.service_cidr.into_iter().collect(),
        },
        sizes: args.sizes,
    })
}
