//! Objects with what the reference model knows nothing of, for tests that compare maps.

use crate::{cluster::Cluster, manifest, reference::ZONE};

/// Objects beside those of the reference model: every kind of address, claims to another's, a node that moves.
pub fn extras(cluster: &Cluster) -> Vec<(&'static str, &'static str, String)> {
    let service = |name: &str, ip: &str, spec: &str| {
        let text = manifest::service(name, &[ip], &["http:80:8080"]);
        text.replace("spec:\n", &format!("spec:\n{spec}"))
    };
    let node_port = service(
        "ports",
        "10.96.9.1",
        "  type: NodePort\n  externalTrafficPolicy: Local\n  externalIPs: [192.0.2.1, 10.96.0.1]\n",
    );
    let vip = "  type: LoadBalancer\n  externalIPs: [192.0.2.1]\n";
    let status = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2}]}}\n";
    let node = |zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node-1, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    };
    vec![
        ("Service", "shop/ports", node_port.replace("port: 80,", "port: 80, nodePort: 50080,")),
        ("Service", "shop/vip", service("vip", "10.96.9.2", vip) + status),
        ("Service", "shop/bare", manifest::headless("bare", &["http:80:8080"])),
        ("EndpointSlice", "shop/ports-1", cluster.slice("ports", 2, &[])),
        ("EndpointSlice", "shop/vip-1", cluster.slice("vip", 1, &[ZONE])),
        ("EndpointSlice", "shop/bare-1", cluster.slice("bare", 2, &[])),
        ("Pod", "shop/cart-1", manifest::pod("cart-1", "bare", &[&cluster.pods[0].0.v4.to_string()])),
        ("Pod", "shop/cart-2", manifest::pod("cart-2", "bare", &[&cluster.pods[1].0.v4.to_string()])),
        ("Node", "node-1", node("elsewhere")),
        ("Node", "node-1", node(ZONE)),
    ]
}
