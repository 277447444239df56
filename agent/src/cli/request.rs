//! `sluice explain http://…`: what the redirector would do, from the snapshot that it has.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    inspect::{Destination, EndpointShare, Explanation, RouteRow, SkippedRow},
    l7::snapshot::{Snapshot, snapshot_file},
    redirector::{Question, explain},
};

/// What `explain` is asked about.
#[derive(Clone, Debug)]
pub enum Asked {
    /// A connection.
    Connection(Destination),
    /// A request: whom the connection goes to, the Host header, the path with the query.
    Request(Destination, String, String),
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("http://") else {
            return text.parse().map(Self::Connection);
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self::Request(host.parse()?, authority.to_owned(), path.to_owned()))
    }
}

/// Who dials: `host`, an address, or a pod's name, with or without its namespace. Whether there is such a pod is asked
/// later, and of the agent only.
pub fn client(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    if is_address(text) || (is_label(namespace) && name.split('.').all(is_label)) {
        return Ok(text.to_owned());
    }
    Err("write a pod's name, NAMESPACE/NAME, an address, ADDRESS:PORT, or host".to_owned())
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok()
}

/// An address with a port, taken apart; anything else without one.
pub fn without_port(from: String) -> (String, Option<u16>) {
    match from.parse::<SocketAddr>() {
        Ok(socket) => (socket.ip().to_string(), Some(socket.port())),
        Err(_) => (from, None),
    }
}

/// Whether it is a pod that dials.
pub fn is_pod(from: &str) -> bool {
    from != "host" && !is_address(from)
}

/// Whether `from` may dial: not when it is a pod that this node, whose pods are `known`, does not have.
pub fn check_client(from: &str, known: Option<&[String]>) -> Result<()> {
    let Some(known) = known.filter(|_| is_pod(from)) else { return Ok(()) };
    let is_it =
        |pod: &&String| pod.as_str() == from || pod.split_once('/').is_some_and(|(_, name)| name == from);
    let found: Vec<&str> = known.iter().filter(is_it).map(String::as_str).collect();
    match found.as_slice() {
        [_] => Ok(()),
        [] => {
            bail!("this node has no pod {from}; write NAMESPACE/NAME of one that it has, an address, or host")
        }
        several => bail!("{from} may be any of the pods {}; write one of these", several.join(", ")),
    }
}

/// One `--header K:V`.
pub fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME:VALUE")?;
    let name = HeaderName::from_str(name.trim()).map_err(|error| error.to_string())?;
    Ok((name, HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?))
}

/// A request, beside where it goes.
pub struct Request {
    /// The Host header.
    pub authority: String,
    /// With the query.
    pub path: String,
    /// Method.
    pub method: String,
    /// Headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What the agent told the redirector last.
pub fn snapshot(run_dir: &Path) -> Result<Snapshot> {
    let file = snapshot_file(run_dir);
    let why = || format!("cannot read {}; is this the agent's --run-dir?", file.display());
    let bytes = std::fs::read(&file).with_context(why)?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no snapshot of this version", file.display()))
}

/// Adds to `answer`, which the kernel's part has made, what the redirector does with the request.
pub fn add_route(answer: &mut Explanation, request: Request, run_dir: &Path) -> Result<()> {
    let dialled = answer.destination.split('/').next().unwrap_or_default();
    let dialled: SocketAddr = dialled.parse().context("the destination is no address")?;
    let headers: HeaderMap = request.headers.into_iter().collect();
    let (authority, method, path) = (request.authority, request.method, request.path);
    let question = Question { from: answer.from.clone(), dialled, authority, method, path, headers };
    let Some(found) = explain(snapshot(run_dir)?, &question) else {
        answer.steps.push(format!("the redirector does not know {dialled} yet: it closes the connection"));
        answer.verdict = "reject";
        return Ok(());
    };
    for (rule, reason) in &found.skipped {
        answer.steps.push(format!("{rule} does not apply: {reason}"));
    }
    answer.steps.push(match (&found.rule, &found.matched) {
        (Some(rule), Some(place)) => {
            let by = found.virtual_service.as_deref().unwrap_or_default();
            format!("rule {rule} of VirtualService {by} takes it, at {place}: {}", found.outcome)
        }
        _ => found.outcome.clone(),
    });
    answer.endpoints.clear();
    let mut names = Vec::new();
    let total: u32 = found.destinations.iter().map(|destination| destination.weight).sum();
    for destination in &found.destinations {
        let share = f64::from(destination.weight) * 100.0 / f64::from(total.max(1));
        let what = match (destination.fault, &destination.resolved, destination.endpoints.len()) {
            (Some(fault), _, _) => format!("503, for {fault}"),
            (None, Some(name), _) => format!("the addresses that {name} has when a request comes"),
            (None, None, 0) => "503, for it has no endpoint".to_owned(),
            (None, None, _) => destination.choice.clone(),
        };
        answer.steps.push(format!("{share:.0} % of such requests go to {}: {what}", destination.name));
        if !destination.zones.is_empty() {
            let zone = |(weight, name): &(u32, String)| format!("{weight} to {name}");
            let shares: Vec<String> = destination.zones.iter().map(zone).collect();
            answer.steps.push(format!("endpoints are told apart by zone, by weight: {}", shares.join(", ")));
        }
        if destination.leaves_out && destination.fault.is_none() {
            let text = "endpoints that fail are left out for a while (outlierDetection): the redirector alone knows whether any is now";
            answer.steps.push(text.to_owned());
        }
        names.push(format!("{} ({share:.0} %)", destination.name));
        answer.endpoints.extend(destination.endpoints.iter().map(|endpoint| EndpointShare {
            address: endpoint.ip(),
            port: endpoint.port(),
            weight: destination.weight,
        }));
    }
    answer.verdict = if found.answered { "translate" } else { "reject" };
    answer.route = Some(RouteRow {
        virtual_service: found.virtual_service,
        rule: found.rule,
        r#match: found.matched,
        destination: names,
        skipped: found.skipped.into_iter().map(|(rule, reason)| SkippedRow { rule, reason }).collect(),
    });
    Ok(())
}

/// Adds to `answer` the rule by which the kernel splits the port's connections, if there is one.
pub fn add_split(answer: &mut Explanation, run_dir: &Path) {
    // Without a snapshot there was never a rule.
    let Ok(snapshot) = snapshot(run_dir) else { return };
    let (Some(service), Some(number)) = (&answer.service, answer.number) else { return };
    let mut splits = snapshot.splits().into_iter();
    let found = splits.find(|((name, port), _)| name.to_string() == *service && *port == number);
    let Some((_, split)) = found else { return };
    let total: f64 = split.shares.iter().map(|share| f64::from(share.weight)).sum();
    let shares = split.shares.iter();
    let shares = shares.map(|share| (share, f64::from(share.weight) * 100.0 / total.max(1.0)));
    let mut steps = vec![format!(
        "{} of VirtualService {} takes it: the kernel leads connections to its destinations by weight",
        split.place, split.virtual_service
    )];
    steps.extend(shares.clone().map(|(share, percent)| {
        let fault = if share.to.is_none() { ", which does not exist: they are refused" } else { "" };
        format!("{percent:.0} % of the connections go to {}{fault}", share.name)
    }));
    // The last step says what becomes of the connection.
    let end = answer.steps.len().saturating_sub(1);
    answer.steps.splice(end..end, steps);
    answer.route = Some(RouteRow {
        virtual_service: Some(split.virtual_service.clone()),
        rule: Some(split.place.clone()),
        r#match: Some(split.place.clone()),
        destination: shares.map(|(share, percent)| format!("{} ({percent:.0} %)", share.name)).collect(),
        skipped: Vec::new(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_the_host_an_address_or_a_pod_that_this_node_has() {
        let pods = ["shop/visitor", "shop/web-1", "other/web-1"].map(str::to_owned);
        for (text, well_formed, known, unknown) in [
            ("host", true, true, true),
            ("10.0.0.1", true, true, true),
            ("fd00::1", true, true, true),
            ("shop/visitor", true, true, true),
            ("visitor", true, true, true),
            ("other/visitor", true, false, true),
            ("nobody", true, false, true),
            ("web-1", true, false, true),
            ("other/web-1", true, true, true),
            ("a.b", true, false, true),
            ("", false, false, true),
            ("Visitor", false, false, true),
            ("shop/", false, false, true),
            ("a/b/c", false, false, true),
            ("10.0.0.1:80", true, true, true),
            ("[fd00::1]:80", true, true, true),
            ("web-1:80", false, false, true),
        ] {
            assert_eq!(client(text).is_ok(), well_formed, "{text}");
            assert_eq!(check_client(text, Some(&pods)).is_ok(), known, "{text}, pods are known");
            assert_eq!(check_client(text, None).is_ok(), unknown, "{text}, pods are not known");
        }
        let ambiguous = check_client("web-1", Some(&pods)).unwrap_err().to_string();
        assert!(ambiguous.contains("shop/web-1, other/web-1"), "{ambiguous}");
    }

    #[test]
    fn requests_and_connections_are_told_apart() {
        for (text, want) in [
            ("http://shop/cart", None),
            ("http://10.96.0.1/items?all=1", Some(("10.96.0.1", "/items?all=1"))),
            ("http://10.96.0.1:8080", Some(("10.96.0.1:8080", "/"))),
            ("http://cart.shop:80/a", Some(("cart.shop:80", "/a"))),
            ("http://[fd00::1]/", Some(("[fd00::1]", "/"))),
            ("10.96.0.1:80", None),
        ] {
            let got = match text.parse::<Asked>() {
                Ok(Asked::Request(_, authority, path)) => Some((authority, path)),
                Ok(Asked::Connection(_)) | Err(_) => None,
            };
            let want = want.map(|(authority, path)| (authority.to_owned(), path.to_owned()));
            assert_eq!(got, want, "{text}");
        }
        assert!(header("x-user: bob").is_ok() && header("nothing").is_err() && header("a b:c").is_err());
    }
}
