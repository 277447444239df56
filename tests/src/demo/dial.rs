//! Dialling as a user would, with curl, socat and a gRPC client, and reading what they say of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::world::{Pod, sluice_binary, tool_path};

/// How often each address is dialled. Of 24 even choices, one of three pods is missed once in five thousand runs.
const TIMES: u32 = 24;
/// Rounds until every pod has answered: makes a miss as rare as one in 10^15.
const ROUNDS: u32 = 4;
/// Calls of a gRPC client.
pub const CALLS: u32 = 240;

/// What [`try_once`] meets where packets are dropped.
pub const TIMED_OUT: &str = "timed out";
/// What [`ping`] meets where all is well.
pub const ECHO: &str = "echo";

/// Transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// HTTP/1.1, a connection for each request, by curl.
    Tcp,
    /// gRPC, all calls over one connection, by tonic.
    Grpc,
    /// HTTPS, to this name.
    Tls(&'static str),
    /// By socat.
    Udp,
}

impl Protocol {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp | Self::Grpc | Self::Tls(_) => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// Path and one header of each request, where the protocol has them.
pub type Request = (&'static str, &'static str);

/// What came of dialling one address several times.
#[derive(Clone, Debug, Default)]
pub struct Dialled {
    /// Who answered, how often.
    pub answers: BTreeMap<String, u32>,
    /// The peers that the clients saw.
    pub peers: BTreeSet<String>,
    /// Connections that the clients made, as they say themselves.
    pub connections: u32,
    /// The client's addresses that each pod saw.
    pub seen: BTreeMap<String, BTreeSet<IpAddr>>,
    /// HTTP errors, such as `HTTP 418`.
    pub statuses: BTreeSet<String>,
    /// Refused, at least once.
    pub refused: bool,
    /// Anything else that went wrong.
    pub failures: BTreeSet<String>,
}

impl Dialled {
    /// A server's answer: its pod's name, and the client's address as it sees it.
    fn answered(&mut self, pod: &str, client: &str) {
        *self.answers.entry(pod.to_owned()).or_default() += 1;
        if let Ok(client) = client.trim_matches(['[', ']']).parse::<IpAddr>() {
            self.seen.entry(pod.to_owned()).or_default().insert(client.to_canonical());
        }
    }

    /// The peer, or what was met instead of one.
    pub fn peer(&self) -> String {
        let mut seen: Vec<&str> = self.peers.iter().map(String::as_str).collect();
        if self.refused {
            seen.push("connection refused");
        }
        seen.extend(self.statuses.iter().map(String::as_str));
        seen.extend(self.failures.iter().map(String::as_str));
        seen.join(", ")
    }
}

/// Dials `to` from `pod`.
///
/// # Errors
/// The client program does not start.
pub fn dial(pod: &Pod, protocol: Protocol, to: &str, request: Request) -> Result<Dialled> {
    let mut dialled = Dialled::default();
    match protocol {
        Protocol::Grpc => grpc(pod, to, &mut dialled)?,
        Protocol::Tcp | Protocol::Tls(_) => {
            for _ in 0..ROUNDS {
                curl(pod, protocol, to, request, &mut dialled)?;
                if dialled.refused {
                    break;
                }
            }
        }
        Protocol::Udp => (0..TIMES).try_for_each(|_| socat(pod, to, &mut dialled))?,
    }
    Ok(dialled)
}

/// Connects once, and waits no longer than an answer takes when there is one: for what is dropped on the way.
///
/// # Errors
/// curl does not start.
pub fn try_once(pod: &Pod, to: &str) -> Result<Dialled> {
    let mut dialled = Dialled::default();
    let status = pod
        .command(&tool_path("curl"))
        .args(["--silent", "--connect-timeout", "2", "--output", "/dev/null", "--write-out", "%{http_code}"])
        .arg(format!("http://{to}/"))
        .output()
        .context("curl does not start")?;
    match (status.status.code(), String::from_utf8_lossy(&status.stdout)) {
        (Some(7), _) => dialled.refused = true,
        (Some(28), _) => drop(dialled.failures.insert(TIMED_OUT.to_owned())),
        (_, code) => drop(dialled.statuses.insert(format!("HTTP {code}"))),
    }
    Ok(dialled)
}

/// Asks for an echo.
///
/// # Errors
/// ping does not start.
pub fn ping(pod: &Pod, to: &str) -> Result<Dialled> {
    let mut dialled = Dialled::default();
    let mut command = pod.command(&tool_path("ping"));
    let output =
        command.args(["-c", "3", "-i", "0.2", "-W", "2", to]).output().context("ping does not start")?;
    let is_whole = String::from_utf8_lossy(&output.stdout).contains("3 received");
    let met = if is_whole { &mut dialled.statuses } else { &mut dialled.failures };
    met.insert(if is_whole { ECHO } else { "no echo" }.to_owned());
    Ok(dialled)
}

/// [`CALLS`] calls over one connection, by tonic.
fn grpc(pod: &Pod, to: &str, dialled: &mut Dialled) -> Result<()> {
    let mut command = pod.command(&sluice_binary().with_file_name("sluice-rpc").display().to_string());
    let output = command
        .args(["call", to, "Say", &CALLS.to_string()])
        .output()
        .context("sluice-rpc does not start")?;
    if !output.status.success() {
        dialled.failures.insert(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line: Value = serde_json::from_str(line).context("sluice-rpc prints lines of JSON")?;
        dialled.connections =
            line["connections"].as_u64().and_then(|count| count.try_into().ok()).unwrap_or(0);
        dialled.peers.extend(line["peer"].as_str().map(str::to_owned));
        match line["messages"][0].as_str().filter(|_| line["code"] == 0) {
            Some(pod) => dialled.answered(pod, ""),
            None => drop(dialled.failures.insert(format!("gRPC status {}", line["code"]))),
        }
    }
    Ok(())
}

/// One curl, [`TIMES`] requests: each answer's body is the pod's name, then curl's own words on its peer.
fn curl(
    pod: &Pod,
    protocol: Protocol,
    to: &str,
    (path, header): Request,
    dialled: &mut Dialled,
) -> Result<()> {
    // curl reads [1-24] as that many requests; the brackets of an IPv6 address need no escape.
    let query = format!("{path}?[1-{TIMES}]");
    let mut command = pod.command(&tool_path("curl"));
    command.args(["--silent", "--fail", "--max-time", "5", "--header", header]);
    command.args(["--write-out", "connects %{num_connects}\n%{remote_ip} %{remote_port} %{errormsg}\n"]);
    match protocol {
        Protocol::Tls(name) => {
            let (address, port) = to.rsplit_once(':').context("an address has a port")?;
            command.args(["--insecure", "--http1.1", "--header", "Connection: close", "--resolve"]);
            command.arg(format!("{name}:{port}:{address}")).arg(format!("https://{name}:{port}{query}"))
        }
        Protocol::Tcp | Protocol::Grpc | Protocol::Udp => {
            command.args(["--header", "Connection: close"]).arg(format!("http://{to}{query}"))
        }
    };
    let output = command.output().context("curl does not start")?;
    read(&String::from_utf8_lossy(&output.stdout), dialled);
    Ok(())
}

/// What the client says of its requests.
fn read(text: &str, dialled: &mut Dialled) {
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["connects", count] => dialled.connections += count.parse::<u32>().unwrap_or(0),
            ["answer", pod, client] => dialled.answered(pod, client),
            [ip, port, ""] => match format!("{}:{port}", bracketed(ip)).parse::<SocketAddr>() {
                Ok(peer) => drop(dialled.peers.insert(peer.to_string())),
                Err(_) => drop(dialled.failures.insert(line.to_owned())),
            },
            [_, _, ..] if line.contains("returned error: ") => {
                let status = line.rsplit(' ').next().unwrap_or_default();
                dialled.statuses.insert(format!("HTTP {status}"));
            }
            _ if line.contains("Couldn't connect") || line.contains("refused") => dialled.refused = true,
            _ => drop(dialled.failures.insert(line.to_owned())),
        }
    }
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') && !ip.starts_with('[') { format!("[{ip}]") } else { ip.to_owned() }
}

/// One datagram from an unconnected socket. socat drops answers from anyone but whom it asked.
fn socat(pod: &Pod, to: &str, dialled: &mut Dialled) -> Result<()> {
    let kind = if to.starts_with('[') { "UDP6" } else { "UDP4" };
    let mut child = pod
        .command(&tool_path("socat"))
        .args(["-d", "-d", "-d", "-T", "2", "STDIO,ignoreeof", &format!("{kind}-SENDTO:{to},end-close")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("socat does not start")?;
    use std::io::{BufRead as _, BufReader, Write as _};
    child.stdin.as_mut().context("socat has a standard input")?.write_all(b"?\n")?;
    let mut answer = String::new();
    BufReader::new(child.stdout.take().context("socat has a standard output")?).read_line(&mut answer)?;
    let _ended_already = child.kill();
    let output = child.wait_with_output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    match answer.trim().strip_prefix("answer ").and_then(|answer| answer.split_once(' ')) {
        Some((pod, client)) => dialled.answered(pod, client),
        None if log.contains("Connection refused") => dialled.refused = true,
        None => drop(dialled.failures.insert("no answer".to_owned())),
    }
    let source = log.lines().find(|line| line.contains(" received packet with "));
    if let Some(peer) = source.and_then(|line| line.split(' ').next_back()?.parse::<SocketAddr>().ok()) {
        dialled.peers.insert(peer.to_string());
    }
    Ok(())
}
