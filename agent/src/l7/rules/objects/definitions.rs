//! CustomResourceDefinitions of the rule objects, for clusters without Istio: names and versions as Istio's, fields as we
//! read them. A field that we do not know is kept, for the agent to name it.

use serde_json::{Value, json};

use super::{DestinationRuleSpec, VirtualServiceSpec, schema};

/// One definition.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Lower-case plural: the name of its file.
    pub plural: &'static str,
    /// The whole object.
    pub object: Value,
}

/// All of them.
pub fn definitions() -> [Definition; 2] {
    // A column has no arrays: an API server refuses the word, and prints an array as text.
    let hosts = column("Hosts", "string", ".spec.hosts");
    let gateways = column("Gateways", "string", ".spec.gateways");
    let host = column("Host", "string", ".spec.host");
    [
        define(
            "VirtualService",
            "virtualservices",
            "vs",
            &schema::of::<VirtualServiceSpec>(),
            &[gateways, hosts],
        ),
        define("DestinationRule", "destinationrules", "dr", &schema::of::<DestinationRuleSpec>(), &[host]),
    ]
}

fn define(kind: &str, plural: &'static str, short: &str, spec: &Value, columns: &[Value]) -> Definition {
    let age = column("Age", "date", ".metadata.creationTimestamp");
    let columns: Vec<&Value> = columns.iter().chain([&age]).collect();
    let version = |name: &str| {
        json!({
            "name": name,
            "served": true,
            "storage": name == "v1",
            "subresources": {"status": {}},
            "additionalPrinterColumns": columns,
            "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "spec": spec,
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                },
            }},
        })
    };
    let versions = ["v1", "v1beta1", "v1alpha3"].map(version);
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.networking.istio.io"),
            "labels": {"app.kubernetes.io/name": "sluice"},
        },
        "spec": {
            "group": "networking.istio.io",
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": kind.to_lowercase(),
                "shortNames": [short],
                "categories": ["istio-io", "networking-istio-io"],
            },
            "versions": versions,
        },
    });
    Definition { plural, object }
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}
