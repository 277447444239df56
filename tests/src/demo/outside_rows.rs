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

const EITHER: Pods = &[("outlet-1", true), ("outlet-2", false)];
const FROM_NODE_2: Pods = &[("outlet-1", false), ("outlet-2", true)];
const BOTH_SEE_CLIENT: Pods = &[("outlet-1", true), ("outlet-2", true)];
const COUNTER: Pods = &[("counter-1", true)];

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
        say("agents: others take over, with --forwarding dsr");
        outside.restart(&["--forwarding", "dsr"]);
        rows.forwarded(outside, "DSR")?;
        say("agents: others take over, with --xdp native");
        outside.restart(&["--xdp", "native"]);
        rows.in_xdp(outside)?;
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
        self.dial(outside, "NodePort of node-1", 1, (Tcp, "192.168.50.11:30080"), EITHER)?;
        self.dial(outside, "NodePort of node-1, IPv6", 1, (Tcp, "[fd00:50::11]:30080"), EITHER)?;
        self.dial(outside, "NodePort of node-2", 2, (Tcp, "192.168.50.12:30080"), FROM_NODE_2)?;
        self.dial(outside, "NodePort of node-2, IPv6", 2, (Tcp, "[fd00:50::12]:30080"), FROM_NODE_2)?;
        self.dial(outside, "NodePort, UDP", 1, (Udp, "192.168.50.11:30053"), EITHER)?;
        self.dial(outside, "NodePort, UDP over IPv6", 1, (Udp, "[fd00:50::11]:30053"), EITHER)?;
        self.dial(outside, "load balancer, by node-1", 1, (Tcp, "203.0.113.90:80"), EITHER)?;
        self.dial(outside, "load balancer, by node-2", 2, (Tcp, "203.0.113.90:80"), FROM_NODE_2)?;
        self.dial(outside, "load balancer, IPv6", 1, (Tcp, "[2001:db8:50::90]:80"), EITHER)?;
        self.dial(outside, "load balancer, UDP", 2, (Udp, "203.0.113.90:5300"), FROM_NODE_2)?;
        self.dial(outside, "externalIP", 1, (Tcp, "203.0.113.95:80"), EITHER)?;
        self.dial(outside, "externalIP, IPv6", 2, (Tcp, "[2001:db8:50::95]:80"), FROM_NODE_2)
    }

    fn policies(&mut self, outside: &Outside) -> Result<()> {
        use Protocol::Tcp;
        self.dial(outside, "policy Local, its node", 2, (Tcp, "203.0.113.91:80"), COUNTER)?;
        self.dial(outside, "policy Local, its NodePort", 2, (Tcp, "[fd00:50::12]:30081"), COUNTER)?;
        let dropped = Want::Met(dial::TIMED_OUT);
        self.once(outside, "policy Local, other node", 1, "203.0.113.91:80", &dropped)?;
        self.once(outside, "policy Local, other NodePort", 1, "[fd00:50::11]:30081", &dropped)?;
        self.dial(outside, "source range, inside", 1, (Tcp, "203.0.113.92:80"), EITHER)?;
        self.once(outside, "source range, not inside", 1, "203.0.113.93:80", &dropped)?;
        self.dial(outside, "its NodePort, unrestricted", 1, (Tcp, "192.168.50.11:30083"), EITHER)?;
        self.once(outside, "no endpoints", 1, "192.168.50.11:30084", &Want::Refused)?;
        self.once(outside, "unknown port of a VIP", 1, "203.0.113.90:81", &Want::Refused)?;
        self.once(outside, "health check, its node", 2, "192.168.50.12:30991", &Want::Met("HTTP 200"))?;
        self.once(outside, "health check, other node", 1, "192.168.50.11:30991", &Want::Met("HTTP 503"))?;
        for address in ["203.0.113.90", "2001:db8:50::90", "10.96.0.90"] {
            self.ping(outside, address)?;
        }
        Ok(())
    }

    fn forwarded(&mut self, outside: &Outside, how: &str) -> Result<()> {
        use Protocol::{Tcp, Udp};
        for (kind, to) in [
            ("NodePort", (Tcp, "192.168.50.11:30080")),
            ("NodePort, IPv6", (Tcp, "[fd00:50::11]:30080")),
            ("load balancer", (Tcp, "203.0.113.90:80")),
            ("load balancer, UDP", (Udp, "203.0.113.90:5300")),
        ] {
            self.dial(outside, &format!("{how}, {kind}"), 1, to, BOTH_SEE_CLIENT)?;
        }
        Ok(())
    }

    fn in_xdp(&mut self, outside: &Outside) -> Result<()> {
        use Protocol::{Tcp, Udp};
        for (kind, to) in [
            ("NodePort", (Tcp, "192.168.50.11:30080")),
            ("load balancer, IPv6", (Tcp, "[2001:db8:50::90]:80")),
            ("NodePort, UDP", (Udp, "192.168.50.11:30053")),
        ] {
            self.dial(outside, &format!("XDP, {kind}"), 1, to, EITHER)?;
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

    fn ping(&mut self, outside: &Outside, to: &str) -> Result<()> {
        outside.world().route_services_to(1);
        let outcome = dial::ping(outside.world().client(), to)?;
        let ok = is_as_wanted(outside, &outcome, to, &Want::Met(dial::ECHO));
        let (name, dialled, none) = ("ping".to_owned(), to.to_owned(), String::new());
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
        let client = outside.world().client().v4.to_string();
        let explained = outside.world().node(node).json(&["explain", "--from", &client, &dialled]);
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
