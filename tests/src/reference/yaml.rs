//! The cluster as Kubernetes objects, for the agent's own conversion to read.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Endpoint, NODE, Service, packets::Kind};

impl Service {
    /// `v1.Service`.
    pub fn object(&self) -> Value {
        let addresses = self.addresses();
        let mut object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.name(), "namespace": "random"},
            "spec": {
                "clusterIP": addresses[0], "clusterIPs": addresses,
                "sessionAffinity": if self.affinity { "ClientIP" } else { "None" },
                "internalTrafficPolicy": if self.internal_local { "Local" } else { "Cluster" },
                "ports": [{"port": self.port, "protocol": if self.udp { "UDP" } else { "TCP" }}],
            },
        });
        if self.maglev {
            object["metadata"]["annotations"] = json!({"sluice.dev/algorithm": "maglev"});
        }
        if let Some(exposed) = &self.exposed {
            let spec = &mut object["spec"];
            spec["type"] = json!("LoadBalancer");
            spec["externalTrafficPolicy"] = json!(if exposed.external_local { "Local" } else { "Cluster" });
            spec["ports"][0]["nodePort"] = json!(exposed.node_port);
            spec["externalIPs"] = json!(self.of_kind(Kind::ExternalIp));
            let ranges = exposed.source_ranges.iter().map(|(network, bits)| format!("{network}/{bits}"));
            spec["loadBalancerSourceRanges"] = json!(ranges.collect::<Vec<_>>());
            let ingress: Vec<Value> =
                self.of_kind(Kind::LoadBalancer).iter().map(|address| json!({ "ip": address })).collect();
            object["status"]["loadBalancer"]["ingress"] = json!(ingress);
        }
        object
    }

    /// Its name.
    pub fn name(&self) -> String {
        format!("service-{}", self.number)
    }

    /// `discovery.k8s.io/v1.EndpointSlice`s: one for each port number and family, as controllers make them.
    pub fn slices(&self, pods_v4: &[IpAddr], pods_v6: &[IpAddr]) -> Vec<Value> {
        let mut slices = Vec::new();
        for (family, pods) in [("IPv4", pods_v4), ("IPv6", pods_v6)] {
            for port in super::random::PORTS {
                let endpoints = self.endpoints.iter().filter(|endpoint| endpoint.port == port);
                let endpoints: Vec<Value> = endpoints.map(|endpoint| object(endpoint, pods)).collect();
                slices.push(json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {
                        "name": format!("{}-{family}-{port}", self.name()), "namespace": "random",
                        "labels": {"kubernetes.io/service-name": self.name()},
                    },
                    "addressType": family,
                    "ports": [{"port": port, "protocol": if self.udp { "UDP" } else { "TCP" }}],
                    "endpoints": endpoints,
                }));
            }
        }
        slices
    }
}

fn object(endpoint: &Endpoint, pods: &[IpAddr]) -> Value {
    let mut object = json!({
        "addresses": [pods[endpoint.pod]],
        "nodeName": if endpoint.here { NODE } else { "node-2" },
        "conditions": {},
        "hints": {},
    });
    for (name, value) in
        [("ready", endpoint.ready), ("serving", endpoint.serving), ("terminating", endpoint.terminating)]
    {
        if let Some(value) = value {
            object["conditions"][name] = json!(value);
        }
    }
    if let Some(zone) = endpoint.zone_hint {
        object["hints"]["forZones"] = json!([{ "name": zone }]);
    }
    if let Some(node) = endpoint.node_hint {
        object["hints"]["forNodes"] = json!([{ "name": node }]);
    }
    object
}
