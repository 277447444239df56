//! How one of a destination's endpoints is chosen, in words, by what the choice itself looks at.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::{
    l7::rules::{ConsistentHash, SimpleBalancer, table::Policy},
    redirector::{
        balance::{by_hash, endpoint_hash, simple},
        hash::Stick,
    },
};

/// Who asks, as far as a hash may look at it.
pub struct Asker<'a> {
    /// The client's address; `None` where the question names none.
    pub address: Option<IpAddr>,
    /// Headers of the request.
    pub headers: &'a HeaderMap,
    /// Its query.
    pub query: Option<&'a str>,
}

/// How one of `endpoints` is chosen for `asker`.
pub fn choice(
    policy: Option<&Policy>,
    affinity: bool,
    asker: &Asker<'_>,
    endpoints: &[SocketAddr],
) -> String {
    let count = endpoints.len();
    let any = match simple(policy) {
        SimpleBalancer::RoundRobin => format!("one of {count}, in turn"),
        SimpleBalancer::Random | SimpleBalancer::Passthrough => format!("one of {count}, at random"),
        SimpleBalancer::Unspecified | SimpleBalancer::LeastRequest | SimpleBalancer::LeastConn => {
            format!("the least busy of two out of {count}")
        }
    };
    let balancer = policy.and_then(|policy| policy.traffic.load_balancer.as_ref());
    let hash = balancer.and_then(|balancer| balancer.consistent_hash.as_ref());
    let Some(what) = looked_at(hash, affinity) else { return any };
    let Some(client) = asker.address.or_else(|| (!is_by_client(hash)).then_some(IpAddr::from([0; 4]))) else {
        return format!("a hash of {what} chooses one of {count}; write --from ADDRESS to see which");
    };
    let stick = Stick::of_request(policy, affinity, client, asker.headers, asker.query, None);
    let scored = endpoints.iter().map(|endpoint| (*endpoint, endpoint_hash(*endpoint)));
    match stick.hash.and_then(|hash| by_hash(hash, scored, &[])) {
        Some(endpoint) => format!("a hash of {what} chooses {endpoint} out of {count}"),
        None => format!("a hash of {what} chooses, which this request has not: {any}"),
    }
}

/// Whether nothing but the client's address counts.
fn is_by_client(hash: Option<&ConsistentHash>) -> bool {
    hash.is_none_or(|hash| {
        hash.http_header_name.is_none()
            && hash.http_cookie.is_none()
            && hash.http_query_parameter_name.is_none()
    })
}

fn looked_at(hash: Option<&ConsistentHash>, affinity: bool) -> Option<String> {
    let Some(hash) = hash else {
        return affinity.then(|| "the client's address, for the Service's session affinity,".to_owned());
    };
    let header = hash.http_header_name.as_ref().map(|name| format!("header {name}"));
    let cookie = || hash.http_cookie.as_ref().map(|cookie| format!("cookie {}", cookie.name));
    let query = || hash.http_query_parameter_name.as_ref().map(|name| format!("query parameter {name}"));
    Some(header.or_else(cookie).or_else(query).unwrap_or_else(|| "the client's address".to_owned()))
}
