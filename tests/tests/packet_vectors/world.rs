//! One world for all vectors that change nothing: two nodes, a client outside, and a Service for each policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU16, Ordering},
        mpsc::{self, Sender},
    },
};

use serde_json::json;
use sluice_tests::{
    outside::{SERVED, seen},
    peer::{Outcome, Peer},
    wait,
    world::{Agent, Pod, TwoNodes},
};

/// Enough that an endpoint that may answer does, but for once in 2^32, by both transports.
const DIALS: usize = 16;

/// Who dials: by packets alone, for no hook sees its sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The client outside.
    External,
    /// A pod of node-1 that serves nothing.
    Pod,
    /// node-1 itself.
    Node,
}

/// What is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The ClusterIP.
    ClusterIp,
    /// The NodePort at node-1.
    NodePort,
    /// The load balancer's address, and the externalIP.
    LoadBalancer,
}

/// All kinds.
pub const KINDS: [Kind; 3] = [Kind::ClusterIp, Kind::NodePort, Kind::LoadBalancer];

/// A Service: its number, which all its addresses and ports show, lines of its spec, and the pods that serve it.
type Row = (usize, &'static str, &'static [&'static str]);

/// What is there from the start.
const SERVICES: [Row; 12] = [
    (0, "", &["near", "far"]),
    (1, "externalTrafficPolicy: Local", &["near", "far"]),
    (2, "internalTrafficPolicy: Local", &["near", "far"]),
    (EMPTY, "", &[]),
    (ONLY_NEAR, "externalTrafficPolicy: Local", &["near"]),
    (BLOCKED, "loadBalancerSourceRanges: [10.99.0.0/16]", &["near", "far"]),
    (CLIENTS, "loadBalancerSourceRanges: [192.168.50.0/30]", &["near", "far"]),
    (PODS, "loadBalancerSourceRanges: [10.244.0.0/16]", &["near", "far"]),
    (RUBBISH, "loadBalancerSourceRanges: [rubbish]", &["near", "far"]),
    (HALF, "loadBalancerSourceRanges: [192.168.50.0/24, x]", &["near", "far"]),
    (NODES, "loadBalancerSourceRanges: [192.168.50.11/32]", &["near", "far"]),
    (SECONDARY, "", &["near"]),
];
/// Without endpoints.
pub const EMPTY: usize = 3;
/// externalTrafficPolicy Local, and no pod on node-2.
pub const ONLY_NEAR: usize = 4;
/// Source ranges that have nobody of this world in them.
pub const BLOCKED: usize = 5;
/// That have the client outside.
pub const CLIENTS: usize = 6;
/// That have pods.
pub const PODS: usize = 7;
/// None that can be read.
pub const RUBBISH: usize = 8;
/// One that can.
pub const HALF: usize = 9;
/// That have node-1.
pub const NODES: usize = 10;
/// Dialled at addresses of the node that are not its first.
pub const SECONDARY: usize = 11;

/// Below the ports that sockets get unasked, and NodePorts.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);
static SHARED: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

/// The world; it ends with the last test that holds it.
pub struct Shared {
    _agents: [Agent; 2],
    _servers: [Peer; 2],
    pods: [Pod; 2],
    alone: Pod,
    // After them, for they live in it.
    pub world: TwoNodes,
    _keeper: Sender<()>,
}

impl Shared {
    /// The one that runs, or a new one.
    pub fn get() -> Arc<Self> {
        let mut place = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        place.upgrade().unwrap_or_else(|| {
            let shared = Self::built();
            *place = Arc::downgrade(&shared);
            shared
        })
    }

    /// One of its own, for who gives the node addresses, which may be what it speaks in elsewhere.
    pub fn own() -> Arc<Self> {
        Self::built()
    }

    /// Built by a thread that lives as long as the world: its processes die with whoever started them, and a test's own thread
    /// ends with the test.
    fn built() -> Arc<Self> {
        let (hand_over, built) = mpsc::channel();
        std::thread::spawn(move || {
            let (keeper, end) = mpsc::channel();
            if hand_over.send(Arc::new(Self::new(keeper))).is_ok() {
                let _the_world_is_gone = end.recv();
            }
        });
        built.recv().expect("the world is built")
    }

    fn new(keeper: Sender<()>) -> Self {
        let mut world = TwoNodes::new();
        let (near, far) = (world.server(1, "near", &SERVED), world.server(2, "far", &SERVED));
        let alone = world.pod(1, "alone");
        let pods = [near.0, far.0];
        let text = SERVICES.map(|(number, spec, by)| {
            let by: Vec<&Pod> = pods.iter().filter(|pod| by.contains(&pod.name.as_str())).collect();
            service(number, spec) + &slices(number, &by)
        });
        let node = |number: usize| {
            let [v4, v6] = world.node(number).host.addresses();
            format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: node-{number}}}\nstatus: {{addresses: [{{type: InternalIP, \
                 address: \"{v4}\"}}, {{type: InternalIP, address: \"{v6}\"}}]}}\n"
            )
        };
        world.apply("services", &(text.concat() + &node(1) + &node(2)));
        let agents = [1, 2].map(|number| world.node(number).agent());
        for (number, hooks) in
            [(1, &["from_network", "to_network", "from_pod", "to_pod"][..]), (2, &["from_pod"])]
        {
            wait::until("programs at devices", || {
                let status = world.node(number).json(&["status"]);
                let rows = status["programs"].as_array().into_iter().flatten();
                let attached: Vec<&str> = rows
                    .filter(|row| row["attached"] == true)
                    .filter_map(|row| row["name"].as_str())
                    .collect();
                if hooks.iter().all(|hook| attached.contains(hook)) {
                    Ok(())
                } else {
                    Err(status.to_string())
                }
            });
            let [v4, _] = world.node(number).host.addresses();
            world.node(number).wait_verdict(&at(&v4, node_ports(0)[0]), "translate", 2);
        }
        Self { _agents: agents, _servers: [near.1, far.1], pods, alone, world, _keeper: keeper }
    }

    /// `near` or `far`.
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).unwrap()
    }

    /// Somebody whose sockets no hook sees.
    pub fn dialler(&self, from: From) -> Peer {
        match from {
            From::External => self.world.client().peer(),
            From::Pod => without_hooks(&self.alone).peer(),
            From::Node => without_hooks(&self.world.node(1).host).peer(),
        }
    }

    /// The pod that dials, with hooks.
    pub const fn alone(&self) -> &Pod {
        &self.alone
    }

    /// The dialler's own address of a family.
    pub fn address(&self, from: From, is_v6: bool) -> String {
        let place = match from {
            From::External => self.world.client(),
            From::Pod => &self.alone,
            From::Node => &self.world.node(1).host,
        };
        place.addresses()[usize::from(is_v6)].clone()
    }

    /// In which names node-1 speaks: on the wire, and on the overlay.
    pub fn names_of_node(&self, is_v6: bool) -> [String; 2] {
        let overlay = if is_v6 { "fd00:10:244:1::" } else { "10.244.1.0" };
        [self.address(From::Node, is_v6), overlay.to_owned()]
    }

    /// The addresses of a Service at node-1, of both families: `host:port` for TCP and for UDP.
    pub fn dialled(&self, number: usize, kind: Kind) -> Vec<[String; 2]> {
        let own = self.world.node(1).host.addresses();
        let places = match kind {
            Kind::ClusterIp => vec![cluster_ips(number)],
            Kind::NodePort => vec![own],
            Kind::LoadBalancer => vec![load_balancer_ips(number), external_ips(number)],
        };
        let ports = if kind == Kind::NodePort { node_ports(number) } else { [80, 53] };
        places.into_iter().flatten().map(|place| ports.map(|port| at(&place, port))).collect()
    }

    /// Who answers at an address, and whom each of them sees.
    pub fn answers(&self, client: &mut Peer, [tcp, udp]: &[String; 2]) -> BTreeMap<String, BTreeSet<String>> {
        let mut met: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for _ in 0..DIALS {
            for (outcome, to) in [(client.tcp(tcp), tcp), (udp_anew(client, udp), udp)] {
                let answer =
                    outcome.unwrap_or_else(|error| panic!("{to}: {error}\n{}", self.world.node(1).log()));
                met.entry(answer.by.clone()).or_default().insert(seen(&answer));
            }
        }
        met
    }
}

/// A datagram from a port that nobody used before.
pub fn udp_anew(client: &mut Peer, to: &str) -> Outcome {
    client.udp_from(&new_port(to), to)
}

/// Any address of the family of `to`, and a port that nobody used before.
pub fn new_port(to: &str) -> String {
    let any = if to.starts_with('[') { "[::]" } else { "0.0.0.0" };
    format!("{any}:{}", NEXT_PORT.fetch_add(1, Ordering::Relaxed))
}

/// A place in the pod's network whose sockets no hook sees, as the kernel's own or a virtual machine's.
pub fn without_hooks(pod: &Pod) -> Pod {
    Pod { cgroup: sluice::loader::find_cgroup(None).unwrap(), ..pod.clone() }
}

/// Address and port as one writes them.
pub fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Whether nobody answered, for two seconds.
pub fn timed_out(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error == "timeout" || error == "ETIMEDOUT")
}

/// Whether that was said at once.
pub fn refused(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error == "ECONNREFUSED")
}

/// Dials by TCP, all at a time, for each is two seconds of waiting: nobody may answer.
pub fn all_time_out(dials: Vec<(String, Peer, String)>) {
    std::thread::scope(|scope| {
        let dials = dials.into_iter().map(|(case, mut client, to)| {
            scope.spawn(move || {
                let met = client.tcp(&to);
                assert!(timed_out(&met), "{case} -> {to}: {met:?}");
            })
        });
        let dials: Vec<_> = dials.collect();
        dials.into_iter().for_each(|dial| dial.join().unwrap());
    });
}

/// The addresses of a Service, IPv4 and IPv6.
pub fn cluster_ips(number: usize) -> [String; 2] {
    [format!("10.96.0.{}", 20 + number), format!("fd00:10:96::{}", 20 + number)]
}

/// Those of its load balancer.
pub fn load_balancer_ips(number: usize) -> [String; 2] {
    [format!("203.0.113.{}", 100 + number), format!("2001:db8:50::{}", 100 + number)]
}

fn external_ips(number: usize) -> [String; 2] {
    [format!("203.0.113.{}", 200 + number), format!("2001:db8:50::{}", 200 + number)]
}

/// Its NodePorts, of TCP and UDP.
pub fn node_ports(number: usize) -> [u16; 2] {
    [30_100 + number as u16, 30_200 + number as u16]
}

/// The manifest of a Service, with these lines in its spec.
pub fn service(number: usize, spec: &str) -> String {
    let ([v4, v6], [lb4, lb6], [ext4, ext6]) =
        (cluster_ips(number), load_balancer_ips(number), external_ips(number));
    let [tcp, udp] = node_ports(number);
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: service-{number}, namespace: shop}}\nspec:\n  type: LoadBalancer\n  \
         clusterIP: {v4}\n  clusterIPs: [{v4}, \"{v6}\"]\n  ipFamilies: [IPv4, IPv6]\n  externalIPs: [{ext4}, \"{ext6}\"]\n  \
         {spec}\n  ports:\n  - {{name: http, port: 80, targetPort: 8080, nodePort: {tcp}, protocol: TCP}}\n  \
         - {{name: dns, port: 53, targetPort: 5353, nodePort: {udp}, protocol: UDP}}\n\
         status: {{loadBalancer: {{ingress: [{{ip: {lb4}}}, {{ip: \"{lb6}\", ipMode: VIP}}]}}}}\n"
    )
}

/// Its EndpointSlices.
pub fn slices(number: usize, pods: &[&Pod]) -> String {
    let slice = |is_v6: bool| {
        let endpoints = pods.iter().map(|pod| {
            let node = if pod.name == "far" { "node-2" } else { "node-1" };
            json!({"addresses": [pod.addresses()[usize::from(is_v6)]], "nodeName": node})
        });
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: service-{number}-{}, namespace: shop, \
             labels: {{kubernetes.io/service-name: service-{number}}}}}\naddressType: {family}\nports: [{{name: http, port: 8080, \
             protocol: TCP}}, {{name: dns, port: 5353, protocol: UDP}}]\nendpoints: {}\n",
            family.to_lowercase(),
            json!(endpoints.collect::<Vec<_>>())
        )
    };
    if pods.is_empty() { String::new() } else { slice(false) + &slice(true) }
}
