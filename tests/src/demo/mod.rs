//! The demo: a small shop on one node, then Services on two nodes with a client outside. Served by nginx and socat,
//! dialled by curl and socat, translated by nothing but our programs.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{manifest, wait, world::World};

mod dial;
mod outside;
mod outside_rows;
mod servers;
mod table;

pub use dial::{Dialled, Protocol};
pub use outside::Outside;
pub use outside_rows::Rows as OutsideRows;
use servers::Servers;

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    dialled: String,
    from: &'static str,
    outcome: Dialled,
    verdict: String,
    path: String,
    /// Connections that the kernel gave to the redirector meanwhile; `None` where nobody looked.
    steered: Option<u64>,
    ok: bool,
}

/// What a row expects.
enum Want<'w> {
    /// Every pod whose name begins so answers, and nobody else; the peer is the address dialled.
    All(&'w str),
    /// Only this pod answers.
    One(&'w str),
    /// Refused at once.
    Refused,
    /// Both answer, the first about four times as often; `kernel` or `redirector` sees to it.
    Split(&'w str, &'w str, &'static str),
    /// Every pod whose name begins so answers, none more than half as often again as its share, over one connection.
    Spread(&'w str),
    /// As `All`, and no connection went to the redirector.
    Past(&'w str),
    /// The first answers, and the second gets a copy of each request for this path.
    Mirrored(&'w str, &'w str, &'static str),
    /// Nobody answers but the rule itself.
    Status(&'w str),
}

/// A running shop.
pub struct Demo {
    world: World,
    _servers: Servers,
    rows: Vec<Row>,
}

impl Demo {
    /// Builds the node and its pods from the Pods in `manifests`, starts servers and the agent.
    ///
    /// # Errors
    /// A step of it fails, by name.
    pub fn start(mut world: World, manifests: &std::path::Path) -> Result<(Self, crate::world::Agent)> {
        say("pods: network namespaces and cgroups, nginx and socat inside");
        for entry in sluice::manifests::folder(manifests)? {
            let name = entry.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            world.apply(&name, &std::fs::read_to_string(&entry)?);
        }
        let servers = Servers::start(&mut world, manifests)?;
        let visitor = world.pod_at(
            "visitor",
            Some([10, 244, 0, 200].into()),
            Some([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 200].into()),
        );
        let [v4, v6] = visitor.addresses();
        world.apply("visitor", &manifest::pod("visitor", "visitor", &[&v4, &v6]));
        say("agent: eBPF programs loaded, attached, probed");
        let agent = world.agent();
        Ok((Self { world, _servers: servers, rows: Vec::new() }, agent))
    }

    /// Dials everything, before, without and after an agent.
    ///
    /// # Errors
    /// A client program cannot be run; what it meets is a row, not an error.
    pub fn run(&mut self, agent: crate::world::Agent) -> Result<crate::world::Agent> {
        use Protocol::{Tcp, Udp};
        say("clients: curl, socat and a gRPC client dial the Services");
        self.row("front, IPv4", "pod", Tcp, "10.96.0.10:80", &Want::All("front-"))?;
        self.row("front, IPv6", "pod", Tcp, "[fd00:96::10]:80", &Want::All("front-"))?;
        self.row("catalogue, three pods", "pod", Tcp, "10.96.0.20:80", &Want::All("catalogue-"))?;
        self.row("catalogue, from the node", "host", Tcp, "10.96.0.20:80", &Want::All("catalogue-"))?;
        self.row("cart, other targetPort", "pod", Tcp, "10.96.0.30:8000", &Want::All("cart-"))?;
        self.row("cart, IPv6", "host", Tcp, "[fd00:96::30]:8000", &Want::All("cart-"))?;
        self.row("payments, IPv6 only", "pod", Tcp, "[fd00:96::40]:80", &Want::All("payments-"))?;
        self.row("prices, UDP", "pod", Udp, "10.96.0.50:5300", &Want::All("prices-"))?;
        self.row("prices, UDP over IPv6", "host", Udp, "[fd00:96::50]:5300", &Want::All("prices-"))?;
        let search = self.world.find("search-1").clone();
        let headless = [format!("{}:80", search.v4), format!("[{}]:80", search.v6)];
        self.row("search, headless", "pod", Tcp, &headless[0], &Want::One("search-1"))?;
        self.row("search, headless, IPv6", "pod", Tcp, &headless[1], &Want::One("search-1"))?;
        self.row("a pod itself", "pod", Tcp, &format!("{}:8080", search.v4), &Want::One("search-1"))?;
        self.row("front, no rules", "pod", Tcp, "10.96.0.10:80", &Want::Past("front-"))?;
        say("rules: a canary, by share, header and browser; the redirector applies them");
        let reviews = "10.96.0.70:80";
        self.row(
            "reviews, canary 80/20",
            "pod",
            Tcp,
            reviews,
            &Want::Split("reviews-v1", "reviews-v2", "redirector"),
        )?;
        let testers = Want::One("reviews-v2");
        self.request("reviews, end-user: jason", "pod", reviews, ("/", "end-user: jason"), &testers)?;
        self.request(
            "reviews, IPv6, a browser",
            "host",
            "[fd00:96::70]:80",
            ("/", "User-Agent: Beta/2"),
            &testers,
        )?;
        self.request(
            "reviews, injected fault",
            "pod",
            reviews,
            ("/broken", "a: b"),
            &Want::Status("HTTP 418"),
        )?;
        let (first, second) = ("reviews-v1", "reviews-v2");
        let mirrored = Want::Mirrored(first, second, "/mirrored");
        self.request("reviews, mirrored", "pod", reviews, ("/mirrored", "a: b"), &mirrored)?;
        self.request("reviews, 503 retried", "pod", reviews, ("/flaky", "a: b"), &Want::One(first))?;
        let ratings = "10.96.0.90:80";
        self.row("ratings, gRPC", "pod", Protocol::Grpc, ratings, &Want::Spread("ratings-"))?;
        for (name, server, want) in [
            ("vault, SNI blue", "blue.vault.example", "vault-blue"),
            ("vault, SNI red", "red.vault.example", "vault-green"),
        ] {
            self.row(name, "pod", Protocol::Tls(server), "10.96.0.100:443", &Want::One(want))?;
        }
        let wallet = Want::Split("wallet-v1", "wallet-v2", "kernel");
        self.row("wallet, TCP 80/20", "pod", Tcp, "10.96.0.80:9000", &wallet)?;
        self.row("wallet, IPv6", "host", Tcp, "[fd00:96::80]:9000", &wallet)?;
        self.row("mail, no endpoints", "pod", Tcp, "10.96.0.60:25", &Want::Refused)?;
        say("agent: killed with SIGKILL");
        agent.kill();
        self.row("front, no agent", "pod", Tcp, "10.96.0.10:80", &Want::All("front-"))?;
        self.request("reviews, no agent", "pod", reviews, ("/", "end-user: jason"), &testers)?;
        self.row("prices, no agent", "pod", Udp, "10.96.0.50:5300", &Want::All("prices-"))?;
        say("agent: another one takes over the pinned maps and links");
        let agent = self.world.agent();
        self.row("front, new agent", "pod", Tcp, "10.96.0.10:80", &Want::All("front-"))?;
        Ok(agent)
    }

    fn row(
        &mut self,
        name: &str,
        from: &'static str,
        protocol: Protocol,
        to: &str,
        want: &Want<'_>,
    ) -> Result<()> {
        self.dial(name, from, (protocol, to), ("/", "a: b"), want)
    }

    fn request(
        &mut self,
        name: &str,
        from: &'static str,
        to: &str,
        request: dial::Request,
        want: &Want<'_>,
    ) -> Result<()> {
        self.dial(name, from, (Protocol::Tcp, to), request, want)
    }

    fn dial(
        &mut self,
        name: &str,
        from: &'static str,
        (protocol, to): (Protocol, &str),
        request: dial::Request,
        want: &Want<'_>,
    ) -> Result<()> {
        let pod = if from == "host" { self.world.node().clone() } else { self.world.find("visitor").clone() };
        let before = self.steered();
        let outcome = dial::dial(&pod, protocol, to, request)?;
        let steered = self.steered().saturating_sub(before);
        let dialled = format!("{to}/{}", protocol.name());
        let explained =
            self.world.json(&["explain", "--from", if from == "host" { from } else { "visitor" }, &dialled]);
        let [verdict, path] =
            ["verdict", "path"].map(|key| explained[key].as_str().unwrap_or("?").to_owned());
        let ok = self.is_as_wanted(&outcome, (&verdict, &path, steered), to, want);
        let (name, steered) = (name.to_owned(), Some(steered));
        self.rows.push(Row { name, dialled, from, outcome, verdict, path, steered, ok });
        Ok(())
    }

    /// Connections that the kernel gave to the redirector so far, as it counts them.
    fn steered(&self) -> u64 {
        let rows = self.world.json(&["reasons"]);
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "steered"));
        row.and_then(|row| row["count"].as_u64()).unwrap_or(0)
    }

    fn is_as_wanted(
        &self,
        outcome: &Dialled,
        (verdict, path, steered): (&str, &str, u64),
        to: &str,
        want: &Want<'_>,
    ) -> bool {
        let answered: Vec<&str> = outcome.answers.keys().map(String::as_str).collect();
        let own_peer = outcome.peers.len() == 1 && outcome.peers.contains(to);
        match want {
            Want::All(prefix) => answered == self.pods(prefix) && own_peer && verdict == "translate",
            Want::Spread(prefix) => {
                let pods = self.pods(prefix);
                let share = dial::CALLS / u32::try_from(pods.len()).unwrap_or(1).max(1);
                // Of 240 among three, 80 are expected; five and a half standard deviations are 40.
                let even =
                    outcome.answers.values().all(|count| (share / 2..=share + share / 2).contains(count));
                let all = outcome.answers.values().sum::<u32>() == dial::CALLS;
                let one = outcome.connections == 1 && steered >= 1;
                answered == pods && own_peer && even && all && one && path == "redirector"
            }
            Want::Past(prefix) => {
                let past = path == "kernel" && steered == 0;
                answered == self.pods(prefix) && own_peer && verdict == "translate" && past
            }
            Want::Mirrored(answers, copied, uri) => {
                let sent = outcome.answers.values().sum::<u32>() as usize;
                // Copies are sent when there is time.
                let all = || servers::asked(&self.world, copied, uri) == sent;
                answered == [*answers] && sent > 0 && wait::comes_true(all)
            }
            Want::One(pod) => {
                let expected = if to.ends_with(":8080") { "pass" } else { "translate" };
                answered == [*pod] && own_peer && verdict == expected
            }
            Want::Split(most, few, by) => {
                let count = |pod: &str| outcome.answers.get(pod).copied().unwrap_or(0);
                // Of 96, 77 and 19 are expected; six standard deviations are 24.
                let shares = (53..=95).contains(&count(most)) && count(few) >= 1;
                // Each of these requests is a connection.
                let way =
                    if *by == "kernel" { steered == 0 } else { steered >= u64::from(outcome.connections) };
                shares && answered == [*most, *few] && own_peer && path == *by && way
            }
            Want::Status(status) => answered.is_empty() && outcome.statuses.iter().eq([*status]),
            Want::Refused => outcome.refused && answered.is_empty() && verdict == "reject",
        }
    }

    /// Names that begin with `prefix`, in order.
    fn pods(&self, prefix: &str) -> Vec<&str> {
        let pods = self.world.pods().iter().map(|pod| pod.name.as_str());
        let mut wanted: Vec<&str> = pods.filter(|pod| pod.starts_with(prefix)).collect();
        wanted.sort_unstable();
        wanted
    }

    /// The world, to look around in.
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// What was met.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The table for people.
    pub fn table(&self) -> String {
        table::render(&self.rows)
    }
}

/// Whether every row is as it should be.
pub fn is_ok(rows: &[Row]) -> bool {
    !rows.is_empty() && rows.iter().all(|row| row.ok)
}

/// The rows for scripts.
pub fn json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "name": row.name,
            "from": row.from,
            "dialled": row.dialled,
            "answers": row.outcome.answers,
            "clients": row.outcome.seen,
            "peer": row.outcome.peer(),
            "verdict": row.verdict,
            "path": row.path,
            "steered": row.steered,
            "ok": row.ok,
        })
    };
    json!({ "rows": rows.iter().map(row).collect::<Vec<_>>(), "ok": is_ok(rows) })
}

/// Progress, apart from the results.
pub fn say(what: &str) {
    eprintln!("  … {what}");
}
