//! `sluice crds`: the definitions of rule objects, as YAML.

use anyhow::{Context as _, Result};

use crate::l7::definitions;

/// Prints all, or the one whose plural is `wanted`.
pub fn print(wanted: Option<&str>) -> Result<()> {
    let all = definitions();
    let mut chosen = all.iter().filter(|one| wanted.is_none_or(|plural| plural == one.plural)).peekable();
    chosen.peek().context("there are virtualservices and destinationrules")?;
    let texts = chosen.map(|one| serde_saphyr::to_string(&one.object)).collect::<Result<Vec<_>, _>>()?;
    print!("{}", texts.join("---\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::{Value, json};

    use super::*;

    fn deploy(file: &str) -> String {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    #[test]
    fn the_committed_definitions_are_those_of_the_types() {
        for one in definitions() {
            let committed = deploy(&format!("crds/{}.yaml", one.plural));
            let (head, committed) = committed.split_once('\n').unwrap();
            assert!(head.starts_with("# Written by `cargo xtask crds`"), "{head}");
            let fresh = serde_saphyr::to_string(&one.object).unwrap();
            assert!(committed == fresh, "crds/{}.yaml is stale: run `cargo xtask crds`", one.plural);
        }
    }

    /// What an API server would refuse in `value`: the keywords that our definitions have.
    fn refused(schema: &Value, value: &Value, path: &str) -> Vec<String> {
        let wrong = |what: &str| vec![format!("{path}: {what}")];
        if value.is_null() {
            return if schema["nullable"] == true { Vec::new() } else { wrong("null") };
        }
        match (schema["type"].as_str(), value) {
            (None, _) if schema["x-kubernetes-preserve-unknown-fields"] == true => Vec::new(),
            (Some("object"), Value::Object(fields)) => {
                let every = &schema["additionalProperties"];
                let of = |name: &str| if every.is_null() { &schema["properties"][name] } else { every };
                let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
                let checked = fields.iter().filter(|(name, _)| !(of(name).is_null() && keeps));
                checked
                    .flat_map(|(name, field)| refused(of(name), field, &format!("{path}.{name}")))
                    .collect()
            }
            (Some("array"), Value::Array(items)) => {
                items.iter().flat_map(|item| refused(&schema["items"], item, &format!("{path}[]"))).collect()
            }
            (Some("string"), Value::String(text)) => match schema["enum"].as_array() {
                Some(names) if !names.contains(&json!(text)) => wrong("not one of the names"),
                Some(_) | None => Vec::new(),
            },
            (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {
                let least = schema["minimum"].as_i64().unwrap_or(i64::MIN);
                if number.as_i64().is_some_and(|number| number < least) {
                    wrong("too small")
                } else {
                    Vec::new()
                }
            }
            (Some("number"), Value::Number(_)) | (Some("boolean"), Value::Bool(_)) => Vec::new(),
            (kind, _) => wrong(&format!("is no {kind:?}")),
        }
    }

    fn spec_of(kind: &str) -> Value {
        let one = definitions().into_iter().find(|one| one.object["spec"]["names"]["kind"] == kind).unwrap();
        one.object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
    }

    #[test]
    fn objects_are_accepted_as_users_write_them_and_unknown_fields_are_kept() {
        let mut seen = 0;
        for file in ["reviews", "wallet", "vault", "ratings"] {
            for text in deploy(&format!("examples/shop/{file}.yaml")).split("\n---\n") {
                let object: Value = serde_saphyr::from_str(text).unwrap();
                let kind = object["kind"].as_str().unwrap();
                if ["VirtualService", "DestinationRule"].contains(&kind) {
                    assert_eq!(refused(&spec_of(kind), &object["spec"], "spec"), [""; 0], "{file}");
                    seen += 1;
                }
            }
        }
        assert!(seen >= 4, "{seen} examples");
        for (kind, spec, want) in [
            ("VirtualService", json!({"hosts": ["a"], "http": [{"timeout": "1.5s", "fault": null}]}), ""),
            ("VirtualService", json!({"tcp": [{"match": [{"port": 80, "sourceSubnet": "10.0.0.0/8"}]}]}), ""),
            ("VirtualService", json!({"later": 1, "http": [{"alsoLater": {"x": [1]}}]}), ""),
            (
                "VirtualService",
                json!({"http": [{"route": [{"weight": "much"}]}]}),
                "spec.http[].route[].weight",
            ),
            ("VirtualService", json!({"hosts": "a"}), "spec.hosts"),
            ("DestinationRule", json!({"trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}), ""),
            (
                "DestinationRule",
                json!({"trafficPolicy": {"loadBalancer": {"simple": "BEST"}}}),
                "spec.trafficPolicy",
            ),
            (
                "DestinationRule",
                json!({"trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": -1}}}}),
                "spec.traf",
            ),
        ] {
            let found = refused(&spec_of(kind), &spec, "spec").join(", ");
            assert!(found.is_empty() == want.is_empty() && found.starts_with(want), "{spec}: {found}");
        }
    }

    #[test]
    fn every_version_is_served_and_the_first_is_stored() {
        for one in definitions() {
            let versions = one.object["spec"]["versions"].as_array().unwrap();
            let seen =
                versions.iter().map(|version| [&version["name"], &version["served"], &version["storage"]]);
            let want = json!([["v1", true, true], ["v1beta1", true, false], ["v1alpha3", true, false]]);
            assert_eq!(json!(seen.collect::<Vec<_>>()), want);
        }
    }
}
