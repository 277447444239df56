//! Tables for reading: paths and hints of what does not fit.

use serde_json::json;

use super::*;

fn read(spec: Value) -> Vec<String> {
    let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "shop"}, "spec": spec});
    let mut messages = Messages::default();
    let (_, spec) = virtual_service(&object, &mut messages);
    assert!(spec.is_some() || messages.has_errors());
    messages.into_vec().iter().map(ToString::to_string).collect()
}

#[test]
fn what_does_not_fit_is_named_by_its_path() {
    let rule = |rule: Value| json!({"hosts": ["reviews"], "http": [rule]});
    let destination = json!({"host": "reviews"});
    for (case, spec, want) in [
        ("nothing wrong", rule(json!({"route": [{"destination": destination}]})), ""),
        ("null is absent", rule(json!({"route": [{"destination": destination}], "timeout": null})), ""),
        (
            "weight indented into destination",
            rule(json!({"route": [{"destination": {"host": "a", "weight": 1}}]})),
            "spec.http[0].route[0].destination.weight: unknown field; `weight` belongs to \
             spec.http[0].route[0], beside `destination`: check the indentation",
        ),
        (
            "a route list nested in a route list",
            rule(json!({"route": [{"route": [{"destination": destination}]}]})),
            "spec.http[0].route[0].route: unknown field; `route` belongs to spec.http[0], beside `route`: \
             check the indentation",
        ),
        (
            "a list within a list",
            rule(json!({"route": [[{"destination": destination}]]})),
            "spec.http[0].route[0]: a list stands within a list: remove one `-`",
        ),
        (
            "a list for an object",
            rule(json!({"retries": [3]})),
            "spec.http[0].retries: is a list, wanted one object: remove the `-`",
        ),
        (
            "an object for a list",
            rule(json!({"route": {"destination": destination}})),
            "spec.http[0].route: invalid type: map, expected a sequence; a list is wanted: put `-` before \
             its first field",
        ),
        (
            "a field of http[] under spec",
            json!({"hosts": ["a"], "route": []}),
            "spec.route: unknown field; `route` belongs to spec.http[]: check the indentation",
        ),
        (
            "misspelt",
            rule(json!({"time_out": "1s"})),
            "spec.http[0].time_out: unknown field; did you mean `timeout`?",
        ),
        (
            "wrong case",
            rule(json!({"corspolicy": {}})),
            "spec.http[0].corspolicy: unknown field; did you mean `corsPolicy`?",
        ),
        ("nothing like it", rule(json!({"zebra": 1})), "spec.http[0].zebra: unknown field"),
        (
            "wrong type",
            rule(json!({"route": [{"destination": destination, "weight": "10"}]})),
            "spec.http[0].route[0].weight: invalid type: string \"10\", expected i64",
        ),
        (
            "no duration",
            rule(json!({"timeout": "5"})),
            "spec.http[0].timeout: invalid value: string \"5\", expected a duration such as \"1.5s\", \
             \"300ms\" or \"1m30s\"",
        ),
        (
            "unknown value",
            rule(json!({"corsPolicy": {"unmatchedPreflights": "DROP"}})),
            "spec.http[0].corsPolicy.unmatchedPreflights: unknown variant `DROP`, expected one of \
             `UNSPECIFIED`, `FORWARD`, `IGNORE`",
        ),
        (
            "null condition",
            rule(json!({"match": [{"headers": {"x-a": null}}]})),
            "spec.http[0].match[0].headers.x-a: invalid type: null, expected struct StringMatch",
        ),
        ("no spec", Value::Null, "spec: is missing"),
        ("spec is a list", json!([]), "spec: is not an object"),
    ] {
        assert_eq!(read(spec).join("\n"), want, "{case}");
    }
}

#[test]
fn the_object_must_be_the_kind_that_is_read() {
    for (case, object, want) in [
        ("older version", json!({"apiVersion": "networking.istio.io/v1alpha3"}), false),
        ("other version", json!({"apiVersion": "networking.istio.io/v2"}), true),
        ("other kind", json!({"kind": "DestinationRule"}), true),
        ("field beside spec", json!({"hosts": []}), true),
        ("no name", json!({"metadata": {}}), true),
    ] {
        let mut whole = json!({"apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService",
            "metadata": {"name": "a"}, "spec": {}});
        for (key, value) in object.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let mut messages = Messages::default();
        virtual_service(&whole, &mut messages);
        assert_eq!(messages.has_errors(), want, "{case}");
    }
}

#[test]
fn a_field_that_the_api_server_dropped_is_found_in_what_kubectl_kept() {
    let good = json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]});
    let mut bad = good.clone();
    bad["http"][0]["route"][0]["destination"]["weight"] = json!(1);
    let path = "spec.http[0].route[0].destination.weight";
    for (case, applied, stored, want) in [
        ("same", json!({"spec": good}).to_string(), &good, vec![]),
        ("dropped", json!({"spec": bad}).to_string(), &good, vec![(Severity::Warning, path)]),
        ("still there", json!({"spec": bad}).to_string(), &bad, vec![(Severity::Error, path)]),
        ("no JSON", "{".to_owned(), &good, vec![]),
        ("no spec", "{}".to_owned(), &good, vec![]),
    ] {
        let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": applied});
        let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "a", "annotations": annotations}, "spec": stored});
        let mut messages = Messages::default();
        virtual_service(&object, &mut messages);
        let messages = messages.into_vec();
        let got: Vec<_> = messages.iter().map(|message| (message.severity, message.path.as_str())).collect();
        assert_eq!(got, want, "{case}");
    }
}
