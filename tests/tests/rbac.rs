//! The ClusterRole of `deploy/base`: it is enough for everything that the agent follows, and all of it is used.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use sluice_tests::{apiserver::access::rights, cluster::Cluster, container::deploy, manifest, wait};

const RULE: &str = "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  http:\n  - directResponse: {status: 418}\n";

fn role() -> Value {
    let text = std::fs::read_to_string(deploy("base/rbac.yaml")).unwrap();
    let documents = text.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    documents.into_iter().find(|document| document["kind"] == "ClusterRole").unwrap()
}

fn local(name: &str, address: &str) -> String {
    let spec = "spec:\n  type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: 31000\n";
    manifest::service(name, &[address], &["http:80:8080"]).replace("spec:\n", spec)
}

#[test]
fn the_role_allows_what_the_agent_asks_for_and_nothing_else() {
    let cluster = Cluster::new();
    let allowed = rights(&role());
    cluster.api.serve_rules();
    cluster.api.serve_service_cidrs();
    cluster.api.allow_only(allowed.clone());
    cluster.cart(1);
    // Rules need the labels of all pods.
    cluster.api.apply(RULE);
    let _agent = cluster.agent();
    // Two Services that want one port: an event, and the same again when it comes again.
    let warns = |wanted: bool| {
        wait::until(&format!("a warning: {wanted}"), || {
            let warnings = cluster.world.json(&["status"])["warnings"].to_string();
            if warnings.contains("shop/rival: healthCheckNodePort") == wanted {
                Ok(())
            } else {
                Err(warnings)
            }
        });
    };
    cluster.api.apply(&local("owner", "10.96.0.7"));
    for _ in 0..2 {
        cluster.api.apply(&local("rival", "10.96.0.8"));
        warns(true);
        cluster.api.delete("Service", "shop/rival");
        warns(false);
    }
    wait::until("all kinds are followed", || {
        let asked = cluster.api.asked();
        if asked == allowed { Ok(()) } else { Err((asked, allowed.clone())) }
    });
    wait::until("the rule is there", || {
        let rows = cluster.world.json(&["config"]).to_string();
        if rows.contains("VirtualService") { Ok(()) } else { Err(rows) }
    });
    let sources = cluster.world.json(&["status"])["sources"].clone();
    assert!(sources.as_array().unwrap().iter().all(|source| source["synced"] == true), "{sources}");
}
