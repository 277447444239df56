//! Which form of an object counts.

use serde_json::json;

use super::*;
use crate::model::{Change, Node};

/// The VirtualService shop/cart with this timeout; broken with none.
fn object(timeout: &str) -> Value {
    let timeout = if timeout.is_empty() { json!(7) } else { json!(timeout) };
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"hosts": ["cart"], "http": [{"timeout": timeout, "route": [{"destination": {"host": "cart"}}]}]}})
}

fn store(object: Option<Value>, partial: bool) -> Store {
    let mut store = Store::new(Node { name: "here".into(), ..Node::default() });
    store.apply(Change::Partial(partial));
    let name = ObjectName::new("shop", "cart");
    store.apply(Change::Rule(RuleKind::VirtualService, name, object.map(Arc::new)));
    store
}

#[test]
fn an_agent_that_starts_anew_keeps_what_counted_of_objects_that_are_broken_now() {
    for (case, last, now, partial, want) in [
        ("nothing changed", Some("1s"), Some("1s"), false, Some("1s")),
        ("another good form", Some("1s"), Some("2s"), false, Some("2s")),
        ("broken meanwhile", Some("1s"), Some(""), false, Some("1s")),
        ("broken all along", None, Some(""), false, None),
        ("broken for this version", Some(""), Some(""), false, None),
        ("gone", Some("1s"), None, false, None),
        ("perhaps gone", Some("1s"), None, true, Some("1s")),
    ] {
        let (mut forms, mesh) = (Forms::default(), Mesh::default());
        forms.restore(RuleKind::VirtualService, last.map(object).into_iter().collect(), &mesh);
        forms.read(&store(now.map(object), partial), &mesh, Instant::now());
        let counts: Vec<_> = forms.raw(RuleKind::VirtualService).cloned().collect();
        assert_eq!(counts, want.map(object).into_iter().collect::<Vec<_>>(), "{case}");
        assert_eq!(forms.is_empty(), now.or(want).is_none(), "{case}");
        // Once it was met, or all could be read, its deletion counts at once.
        forms.read(&store(None, now.is_some()), &mesh, Instant::now());
        assert!(forms.is_empty(), "{case}");
    }
}

#[test]
fn what_held_before_holds_while_a_new_form_waits_for_its_subset() {
    let to_subset = |subset: &str| {
        let mut object = object("1s");
        object["spec"]["http"][0]["route"][0]["destination"]["subset"] = json!(subset);
        object
    };
    let start = Instant::now();
    for (case, last, now, want) in [
        ("a first rule", None, to_subset("v1"), None),
        ("another form", Some(object("1s")), to_subset("v1"), Some(object("1s"))),
        ("the agent starts anew", Some(to_subset("v1")), to_subset("v1"), Some(to_subset("v1"))),
        ("no subset is named", Some(object("1s")), object("2s"), Some(object("2s"))),
    ] {
        let (mut forms, mesh) = (Forms::default(), Mesh::default());
        forms.restore(RuleKind::VirtualService, last.clone().into_iter().collect(), &mesh);
        let mut store = store(Some(now.clone()), false);
        forms.read(&store, &mesh, start);
        let counts = |forms: &Forms| forms.raw(RuleKind::VirtualService).cloned().collect::<Vec<_>>();
        assert_eq!(counts(&forms), want.iter().cloned().collect::<Vec<_>>(), "{case}");
        let waits = want.as_ref() != Some(&now);
        assert_eq!(forms.wake().is_some(), waits, "{case}");
        let reports =
            forms.reports(&forms.rule_set(&mesh), &KnownServices::new(), &Hosts::new(), &Scope::default());
        assert_eq!((reports.len(), reports[0].state), (1, "accepted"), "{case}");
        let said = reports[0].messages.iter().any(|message| message.text.contains("holds on"));
        assert_eq!(said, waits, "{case}: {reports:?}");
        let end = forms.wake().unwrap_or(start);
        forms.read(&store, &mesh, end);
        assert_eq!(counts(&forms), [now], "{case}");
        // What is deleted waits for nothing.
        store.apply(Change::Rule(RuleKind::VirtualService, ObjectName::new("shop", "cart"), None));
        forms.read(&store, &mesh, end);
        assert!(forms.is_empty() && forms.wake().is_none(), "{case}");
    }
}
