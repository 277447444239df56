//! Source, destination and policy: who answers, and whom it sees. L is the pod `near` on the node that is dialled, R the
//! pod `far` on the other. The name of a test is the row; its last word but one is the policy.

use std::collections::BTreeSet;

use crate::world::{From, From::*, Kind, Kind::*, Shared};

/// Which Service; their pods are the same.
const CLUSTER: usize = 0;
const EXTERNAL_LOCAL: usize = 1;
const INTERNAL_LOCAL: usize = 2;

macro_rules! vectors {
    ($($name:ident: $from:ident, $kind:ident, $policy:ident => $pods:expr;)*) => {
        $(#[test] fn $name() { meets($from, $kind, $policy, &$pods); })*
    };
}

vectors! {
    pod_to_cluster_ip_both_cluster: Pod, ClusterIp, CLUSTER => ["near", "far"];
    pod_to_cluster_ip_external_local: Pod, ClusterIp, EXTERNAL_LOCAL => ["near", "far"];
    pod_to_cluster_ip_internal_local: Pod, ClusterIp, INTERNAL_LOCAL => ["near"];
    pod_to_node_port_both_cluster: Pod, NodePort, CLUSTER => ["near", "far"];
    pod_to_node_port_external_local: Pod, NodePort, EXTERNAL_LOCAL => ["near", "far"];
    pod_to_node_port_internal_local: Pod, NodePort, INTERNAL_LOCAL => ["near", "far"];
    pod_to_load_balancer_both_cluster: Pod, LoadBalancer, CLUSTER => ["near", "far"];
    pod_to_load_balancer_external_local: Pod, LoadBalancer, EXTERNAL_LOCAL => ["near", "far"];
    pod_to_load_balancer_internal_local: Pod, LoadBalancer, INTERNAL_LOCAL => ["near", "far"];
    node_to_cluster_ip_both_cluster: Node, ClusterIp, CLUSTER => ["near", "far"];
    node_to_cluster_ip_external_local: Node, ClusterIp, EXTERNAL_LOCAL => ["near", "far"];
    node_to_cluster_ip_internal_local: Node, ClusterIp, INTERNAL_LOCAL => ["near"];
    node_to_node_port_both_cluster: Node, NodePort, CLUSTER => ["near", "far"];
    node_to_node_port_external_local: Node, NodePort, EXTERNAL_LOCAL => ["near", "far"];
    node_to_node_port_internal_local: Node, NodePort, INTERNAL_LOCAL => ["near", "far"];
    node_to_load_balancer_both_cluster: Node, LoadBalancer, CLUSTER => ["near", "far"];
    node_to_load_balancer_external_local: Node, LoadBalancer, EXTERNAL_LOCAL => ["near", "far"];
    node_to_load_balancer_internal_local: Node, LoadBalancer, INTERNAL_LOCAL => ["near", "far"];
    external_to_cluster_ip_both_cluster: External, ClusterIp, CLUSTER => ["near", "far"];
    external_to_cluster_ip_external_local: External, ClusterIp, EXTERNAL_LOCAL => ["near", "far"];
    external_to_cluster_ip_internal_local: External, ClusterIp, INTERNAL_LOCAL => ["near"];
    external_to_node_port_both_cluster: External, NodePort, CLUSTER => ["near", "far"];
    external_to_node_port_external_local: External, NodePort, EXTERNAL_LOCAL => ["near"];
    external_to_node_port_internal_local: External, NodePort, INTERNAL_LOCAL => ["near", "far"];
    external_to_load_balancer_both_cluster: External, LoadBalancer, CLUSTER => ["near", "far"];
    external_to_load_balancer_external_local: External, LoadBalancer, EXTERNAL_LOCAL => ["near"];
    external_to_load_balancer_internal_local: External, LoadBalancer, INTERNAL_LOCAL => ["near", "far"];
}

/// By TCP and UDP, in both families, exactly these pods answer, but for chance of 2^-32. A pod keeps its address towards
/// all of them, a client outside towards those of the node that it dials; all else goes on in the node's name.
fn meets(from: From, kind: Kind, service: usize, pods: &[&str]) {
    let shared = Shared::get();
    // A node's own address is never sent out: only sockets' hooks see its NodePorts dialled at home.
    let mut client = if (from, kind) == (Node, NodePort) {
        shared.world.node(1).host.peer()
    } else {
        shared.dialler(from)
    };
    for to in shared.dialled(service, kind) {
        let (is_v6, answers) = (to[0].starts_with('['), shared.answers(&mut client, &to));
        let by: BTreeSet<&str> = answers.keys().map(String::as_str).collect();
        assert_eq!(by, pods.iter().copied().collect(), "{from:?} -> {}", to[0]);
        for (by, seen) in &answers {
            let keeps = match from {
                Pod => true,
                External => by == "near",
                Node => false,
            };
            let want =
                if keeps { vec![shared.address(from, is_v6)] } else { shared.names_of_node(is_v6).into() };
            assert!(seen.iter().all(|seen| want.contains(seen)), "{from:?} -> {}: {by} sees {seen:?}", to[0]);
        }
    }
}
