//! Which clients stay together with an endpoint: `consistentHash`, else the Service's affinity. Pure.

use std::net::IpAddr;

use crate::l7::rules::{ConsistentHash, HashCookie, table::Policy};
use http::{HeaderMap, HeaderValue, header::COOKIE};

use super::draws::mix;

/// What a request is hashed by, and what its answer must carry.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Stick {
    /// Requests with the same hash go to the same endpoint; `None` is any.
    pub hash: Option<u64>,
    /// `Set-Cookie` for a client that has no cookie yet.
    pub cookie: Option<HeaderValue>,
}

impl Stick {
    /// For a connection, of which nothing but the client is known.
    pub fn of_connection(policy: Option<&Policy>, affinity: bool, client: IpAddr) -> Self {
        Self::of_request(policy, affinity, client, &HeaderMap::new(), None, None)
    }

    /// For a request. `new` is what a cookie is made from, if one is to be made.
    pub fn of_request(
        policy: Option<&Policy>,
        affinity: bool,
        client: IpAddr,
        headers: &HeaderMap,
        query: Option<&str>,
        new: Option<u64>,
    ) -> Self {
        let by_client = || Some(hash_of(client.to_string().as_bytes()));
        let only = |hash| Self { hash, cookie: None };
        let Some(hash) = consistent_hash(policy) else {
            return only(by_client().filter(|_| affinity));
        };
        if let Some(name) = &hash.http_header_name {
            return only(headers.get(name.as_str()).map(|value| hash_of(value.as_bytes())));
        }
        if let Some(cookie) = &hash.http_cookie {
            if let Some(value) = cookie_value(headers, &cookie.name) {
                return only(Some(hash_of(value)));
            }
            let made = new.and_then(|new| made(cookie, new));
            return made.map_or_else(Self::default, |(value, line)| Self {
                hash: Some(hash_of(value.as_bytes())),
                cookie: Some(line),
            });
        }
        if let Some(name) = &hash.http_query_parameter_name {
            let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            return only(pairs.into_iter().find(|(key, _)| key == name).map(|(_, v)| hash_of(v.as_bytes())));
        }
        only(by_client())
    }
}

fn consistent_hash(policy: Option<&Policy>) -> Option<&ConsistentHash> {
    policy?.traffic.load_balancer.as_ref()?.consistent_hash.as_ref()
}

/// Whether a client without the policy's cookie is to be given one.
pub fn makes_cookies(policy: Option<&Policy>) -> bool {
    let cookie = consistent_hash(policy).and_then(|hash| hash.http_cookie.as_ref());
    cookie.is_some_and(|cookie| cookie.ttl.is_some())
}

/// A hash that is spread over all of `u64`.
pub fn hash_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash, byte| mix(hash ^ u64::from(*byte).wrapping_add(1)))
}

fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes())
}

/// The value of a new cookie, and its line; `None` where none is to be made.
fn made(cookie: &HashCookie, new: u64) -> Option<(String, HeaderValue)> {
    let ttl = cookie.ttl?.0;
    let value = format!("{new:016x}");
    let mut line = format!("{}={value}", cookie.name);
    if !ttl.is_zero() {
        // RFC 6265 knows whole seconds only, and 0 would end the cookie at once.
        line += &format!("; Max-Age={}", ttl.as_secs().max(1));
    }
    if let Some(path) = cookie.path.as_deref().filter(|path| !path.is_empty()) {
        line += &format!("; Path={path}");
    }
    for attribute in &cookie.attributes {
        line += &format!("; {}", attribute.name);
        if !attribute.value.is_empty() {
            line += &format!("={}", attribute.value);
        }
    }
    line += "; HttpOnly";
    Some((value, HeaderValue::try_from(line).ok()?))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use serde_json::json;

    use super::*;
    use crate::l7::rules::{Labels, ObjectName, TrafficPolicy};

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn stick(hash: serde_json::Value, lines: &[(&str, &str)], query: Option<&str>) -> Stick {
        let traffic: TrafficPolicy =
            serde_json::from_value(json!({"loadBalancer": {"consistentHash": hash}})).unwrap();
        let name = ObjectName { namespace: "shop".to_owned(), name: "dr".to_owned() };
        let policy = Policy { destination_rule: name, labels: Labels::new(), traffic };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        Stick::of_request(Some(&policy), true, CLIENT, &headers, query, Some(0xfeed))
    }

    #[test]
    fn what_is_hashed() {
        let user = Some(hash_of(b"jason"));
        for (case, hash, lines, query, want) in [
            ("header", json!({"httpHeaderName": "x-user"}), &[("x-user", "jason")][..], None, user),
            ("header, absent", json!({"httpHeaderName": "x-user"}), &[], None, None),
            ("query", json!({"httpQueryParameterName": "u"}), &[], Some("a=b&u=jason"), user),
            ("query, absent", json!({"httpQueryParameterName": "u"}), &[], Some("a=b"), None),
            ("query, none", json!({"httpQueryParameterName": "u"}), &[], None, None),
            ("client", json!({"useSourceIp": true}), &[], None, Some(hash_of(b"10.0.0.7"))),
            ("cookie", json!({"httpCookie": {"name": "u"}}), &[("cookie", "a=b; u=jason")], None, user),
            ("cookie, absent, without ttl", json!({"httpCookie": {"name": "u"}}), &[], None, None),
        ] {
            let got = stick(hash, lines, query);
            assert_eq!(got, Stick { hash: want, cookie: None }, "{case}");
        }
        let plain = |affinity| Stick::of_connection(None, affinity, CLIENT).hash;
        assert_eq!((plain(false), plain(true)), (None, Some(hash_of(b"10.0.0.7"))), "affinity");
    }

    #[test]
    fn a_cookie_is_made_where_it_has_a_ttl() {
        for (case, cookie, want) in [
            ("ttl", json!({"ttl": "1h"}), "u=000000000000feed; Max-Age=3600; HttpOnly"),
            ("session", json!({"ttl": "0s"}), "u=000000000000feed; HttpOnly"),
            ("path", json!({"ttl": "0s", "path": "/a"}), "u=000000000000feed; Path=/a; HttpOnly"),
            ("part of a second", json!({"ttl": "1ms"}), "u=000000000000feed; Max-Age=1; HttpOnly"),
            (
                "attributes",
                json!({"ttl": "0s", "attributes": [{"name": "SameSite", "value": "Lax"}, {"name": "Secure"}]}),
                "u=000000000000feed; SameSite=Lax; Secure; HttpOnly",
            ),
        ] {
            let mut cookie = cookie;
            cookie["name"] = json!("u");
            let hash = json!({ "httpCookie": cookie });
            let first = stick(hash.clone(), &[], None);
            assert_eq!(first.cookie.as_ref().unwrap(), want, "{case}");
            // The client that brings it back is told nothing, and stays.
            let again = stick(hash, &[("cookie", "u=000000000000feed")], None);
            assert_eq!(again, Stick { hash: first.hash, cookie: None }, "{case}");
        }
    }
}
