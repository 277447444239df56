//! What a client outside of the cluster meets, row by row, with each way of forwarding.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Result;

use super::{
    Outside, Row,
    dial::{self, Dialled, Protocol},
    say, table,
};

/// Pods that must answer, and no others, each with whether it must see the client's own address.
type Pods = &'static [(&'static str, bool)];

/// What a row expects.
enum Want {
    /// These pods answer; the client sees what it dialled.
    Pods(Pods),
    /// Nobody answers, and this is met: [`dial::TIMED_OUT`], an HTTP status, an echo.
    Met(&'static str),
    /// Refused at once.
    Refused,
}

const BOTH_SEE_CLIENT: Pods = &[("outlet-1", true), ("outlet-2", true)];
const COUNTER: Pods = &[("counter-1", true)];

/// Both nodes, and IPv4 and IPv6 at each.
const WAYS: [(usize, bool); 4] = [(1, false), (1, true), (2, false), (2, true)];

/// Either pod answers; the one on the node that is dialled sees the client, the other the node.
const fn either(node: usize) -> Pods {
    if node == 1 {
        &[("outlet-1", true), ("outlet-2", false)]
    } else {
        &[("outlet-1", false), ("outlet-2", true)]
    }
}

/// A node's address on the wire, with a port.
fn node_port(node: usize, is_v6: bool, port: u16) -> String {
    if is_v6 { format!("[fd00:50::1{node}]:{port}") } else { format!("192.168.50.1{node}:{port}") }
}

/// The address with this number of a load balancer, or of the outside world's, with a port.
fn vip(number: u16, is_v6: bool, port: u16) -> String {
    if is_v6 { format!("[2001:db8:50::{number}]:{port}") } else { format!("203.0.113.{number}:{port}") }
}

/// What was met at both nodes.
#[derive(Default)]
pub struct Rows(Vec<Row>);

impl Rows {
    /// Dials everything, with agents that forward in each way in turn.
    ///
    /// # Errors
    /// A client program cannot be run; what it meets is a row, not an error.
    pub fn of(outside: &mut Outside) -> Result<Self> {
        let mut rows = Self::default();
        say("a client outside: NodePorts, load balancer and external addresses");
        rows.addresses(outside)?;
        say("externalTrafficPolicy: Local, source ranges, refusals, health check ports, pings");
        rows.policies(outside)?;
        for (how, flags) in [
            ("DSR", ["--forwarding", "dsr"]),
            ("hybrid", ["--forwarding", "hybrid"]),
            ("XDP", ["--xdp", "native"]),
        ] {
            say(&format!("agents: others take over, with {}", flags.join(" ")));
            outside.restart(&flags);
            rows.forwarded(outside, how)?;
        }
        Ok(rows)
    }

    /// All of them.
    pub fn all(&self) -> &[Row] {
        &self.0
    }

    /// The table for people.
    pub fn table(&self) -> String {
        table::render_outside(&self.0)
    }

    fn addresses(&mut self, outside: &Outside) -> Result<()> {
        use Protocol::{Tcp, Udp};
        for (node, is_v6) in WAYS {
            for (what, protocol, to) in [
                (format!("NodePort of node-{node}"), Tcp, node_port(node, is_v6, 30080)),
                (format!("NodePort of node-{node}, UDP"), Udp, node_port(node, is_v6, 30053)),
                (format!("load balancer, by node-{node}"), Tcp, vip(90, is_v6, 80)),
                (format!("load balancer, by node-{node}, UDP"), Udp, vip(90, is_v6, 5300)),
                (format!("externalIP, by node-{node}"), Tcp, vip(95, is_v6, 80)),
            ] {
                self.dial(outside, &what, node, (protocol, &to), either(node))?;
            }
        }
        Ok(())
    }

    fn policies(&mut self, outside: &Outside) -> Result<()> {
        use Protocol::Tcp;
        let dropped = Want::Met(dial::TIMED_OUT);
        for is_v6 in [false, true] {
            let counter = vip(91, is_v6, 80);
            self.dial(outside, "policy Local, its node", 2, (Tcp, &counter), COUNTER)?;
            let own = node_port(2, is_v6, 30081);
            self.dial(outside, "policy Local, its NodePort", 2, (Tcp, &own), COUNTER)?;
            self.once(outside, "policy Local, other node", 1, &counter, &dropped)?;
            let other = node_port(1, is_v6, 30081);
            self.once(outside, "policy Local, other NodePort", 1, &other, &dropped)?;
        }
        for (node, is_v6) in WAYS {
            self.dial(outside, "source range, inside", node, (Tcp, &vip(92, is_v6, 80)), either(node))?;
            self.once(outside, "source range, not inside", node, &vip(93, is_v6, 80), &dropped)?;
            let open = node_port(node, is_v6, 30083);
            self.dial(outside, "its NodePort, unrestricted", node, (Tcp, &open), either(node))?;
            self.once(outside, "no endpoints", node, &node_port(node, is_v6, 30084), &Want::Refused)?;
            self.once(outside, "unknown port of a VIP", node, &vip(90, is_v6, 81), &Want::Refused)?;
            let (whose, status) = if node == 2 { ("its", "HTTP 200") } else { ("other", "HTTP 503") };
            let check = node_port(node, is_v6, 30991);
            self.once(outside, &format!("health check, {whose} node"), node, &check, &Want::Met(status))?;
        }
        for address in ["203.0.113.90", "2001:db8:50::90", "10.96.0.90", "fd00:10:96::90"] {
            self.ping(outside, 1, address)?;
            self.ping(outside, 2, address)?;
        }
        Ok(())
    }

    /// With tunnels both pods see the client, where the transport goes in them.
    fn forwarded(&mut self, outside: &Outside, how: &str) -> Result<()> {
        use Protocol::{Tcp, Udp};
        for (node, is_v6) in WAYS {
            for (what, protocol, to) in [
                (format!("NodePort of node-{node}"), Tcp, node_port(node, is_v6, 30080)),
                (format!("load balancer, by node-{node}"), Tcp, vip(90, is_v6, 80)),
                (format!("load balancer, by node-{node}, UDP"), Udp, vip(90, is_v6, 5300)),
            ] {
                let tunnelled = how == "DSR" || (how == "hybrid" && protocol == Tcp);
                let want = if tunnelled { BOTH_SEE_CLIENT } else { either(node) };
                self.dial(outside, &format!("{how}, {what}"), node, (protocol, &to), want)?;
            }
        }
        Ok(())
    }

    fn dial(
        &mut self,
        outside: &Outside,
        name: &str,
        node: usize,
        (protocol, to): (Protocol, &str),
        want: Pods,
    ) -> Result<()> {
        outside.world().route_services_to(node);
        let outcome = outside.dial(outside.world().client(), protocol, to)?;
        let dialled = format!("{to}/{}", protocol.name());
        self.add(outside, (name, node), dialled, outcome, &Want::Pods(want));
        Ok(())
    }

    fn once(&mut self, outside: &Outside, name: &str, node: usize, to: &str, want: &Want) -> Result<()> {
        outside.world().route_services_to(node);
        let outcome = dial::try_once(outside.world().client(), to)?;
        self.add(outside, (name, node), format!("{to}/TCP"), outcome, want);
        Ok(())
    }

    fn ping(&mut self, outside: &Outside, node: usize, to: &str) -> Result<()> {
        outside.world().route_services_to(node);
        let outcome = dial::ping(outside.world().client(), to)?;
        let ok = is_as_wanted(outside, &outcome, to, &Want::Met(dial::ECHO));
        let (name, dialled, none) = (format!("ping, by node-{node}"), to.to_owned(), String::new());
        self.0.push(Row {
            name,
            dialled,
            from: "client",
            outcome,
            verdict: none.clone(),
            path: none,
            steered: None,
            ok,
        });
        Ok(())
    }

    fn add(
        &mut self,
        outside: &Outside,
        (name, node): (&str, usize),
        dialled: String,
        outcome: Dialled,
        want: &Want,
    ) {
        let client = &outside.world().client().addresses()[usize::from(dialled.starts_with('['))];
        let explained = outside.world().node(node).json(&["explain", "--from", client, &dialled]);
        let [verdict, path] =
            ["verdict", "path"].map(|key| explained[key].as_str().unwrap_or("?").to_owned());
        let to = dialled.rsplit_once('/').map_or(dialled.as_str(), |(to, _)| to);
        let translated = matches!(want, Want::Pods(_));
        let ok = is_as_wanted(outside, &outcome, to, want) && (!translated || verdict == "translate");
        self.0.push(Row {
            name: name.to_owned(),
            dialled,
            from: "client",
            outcome,
            verdict,
            path,
            steered: None,
            ok,
        });
    }
}

fn is_as_wanted(outside: &Outside, outcome: &Dialled, to: &str, want: &Want) -> bool {
    match want {
        Want::Pods(pods) => {
            let client = outside.world().client();
            let own: [IpAddr; 2] = [client.v4.into(), client.v6.into()];
            let keeps_source = |seen: &BTreeSet<IpAddr>| {
                let (all, none) =
                    (seen.iter().all(|ip| own.contains(ip)), !seen.iter().any(|ip| own.contains(ip)));
                (all != none).then_some(all)
            };
            let met: BTreeMap<&str, Option<bool>> =
                outcome.seen.iter().map(|(pod, seen)| (pod.as_str(), keeps_source(seen))).collect();
            let wanted = pods.iter().map(|(pod, own)| (*pod, Some(*own))).collect();
            let own_peer = outcome.peers.len() == 1 && outcome.peers.contains(to);
            met == wanted && outcome.answers.len() == pods.len() && own_peer
        }
        Want::Met(what) => outcome.answers.is_empty() && outcome.peer() == *what,
        Want::Refused => outcome.refused && outcome.answers.is_empty(),
    }
}
