//! Rules that are delegated to another VirtualService: one level, merged here. Nothing else is merged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::super::{
    ObjectName,
    hosts::Mesh,
    objects::{Delegate, HttpMatch, HttpRoute, Messages, StringMatch},
};
use super::{HttpRule, VirtualService, accept::HttpEntry, covers::covers, rule::Origin};

/// Matches of merged rules that one object may have: each half multiplies the other.
const MOST_MATCHES: usize = 10_000;

/// All HTTP rules of `root`, those of its delegates in their places.
pub(super) fn rules(
    root: &VirtualService,
    others: &BTreeMap<ObjectName, Arc<VirtualService>>,
    mesh: &Mesh,
    messages: &mut Messages,
) -> Vec<Arc<HttpRule>> {
    let mut rules = Vec::with_capacity(root.http.len());
    let mut room = MOST_MATCHES;
    for (i, (entry, raw)) in root.http.iter().zip(&root.spec.http).enumerate() {
        match (entry, &raw.delegate) {
            (HttpEntry::Rule(rule), _) => rules.push(rule.clone()),
            (HttpEntry::Delegate, Some(delegate)) => {
                let path = format!("spec.http[{i}].delegate");
                match find(delegate, root, others) {
                    Ok(leaf) => merge_all(root, i, leaf, mesh, &mut room, &mut rules, messages),
                    Err(why) => messages.warn(path, format!("{why}; this rule is skipped")),
                }
            }
            (HttpEntry::Delegate, None) => {}
        }
    }
    rules
}

/// Objects without hosts that nobody delegates to.
pub(super) fn orphans(
    objects: &BTreeMap<ObjectName, Arc<VirtualService>>,
) -> impl Iterator<Item = &ObjectName> {
    let entries = objects.values().flat_map(|root| root.spec.http.iter().map(move |raw| (root, raw)));
    let delegates = entries.filter_map(|(root, raw)| Some(name_of(raw.delegate.as_ref()?, root)));
    let wanted: BTreeSet<_> = delegates.collect();
    let orphans = objects.iter().filter(move |(name, leaf)| leaf.hosts.is_empty() && !wanted.contains(name));
    orphans.map(|(name, _)| name)
}

/// The object that `delegate` names; its namespace is the root's by default.
pub(super) fn name_of(delegate: &Delegate, root: &VirtualService) -> ObjectName {
    let named = delegate.namespace.as_deref().filter(|text| !text.is_empty());
    ObjectName::new(named.unwrap_or(&root.meta.name.namespace), &delegate.name)
}

fn find<'a>(
    delegate: &Delegate,
    root: &VirtualService,
    others: &'a BTreeMap<ObjectName, Arc<VirtualService>>,
) -> Result<&'a VirtualService, String> {
    let own = &root.meta.name.namespace;
    let name = name_of(delegate, root);
    let leaf = others.get(&name).ok_or_else(|| format!("there is no VirtualService {name}"))?;
    if leaf.export.tier(&name.namespace, Some(own)).is_none() {
        return Err(format!("VirtualService {name} is not exported to namespace {own}"));
    }
    if !leaf.hosts.is_empty() {
        return Err(format!("VirtualService {name} has hosts of its own"));
    }
    Ok(leaf)
}

fn merge_all(
    root: &VirtualService,
    index: usize,
    leaf: &VirtualService,
    mesh: &Mesh,
    room: &mut usize,
    rules: &mut Vec<Arc<HttpRule>>,
    messages: &mut Messages,
) {
    let name = Arc::new(root.meta.name.clone());
    let leaf_name = Arc::new(leaf.meta.name.clone());
    for (j, raw) in leaf.spec.http.iter().enumerate() {
        let path = format!("spec.http[{index}].delegate");
        *room = room.saturating_sub((root.spec.http[index].matches.len().max(1)) * raw.matches.len().max(1));
        if *room == 0 {
            let text = format!(
                "http[{j}] of {leaf_name} and what follows is left out: with those of other objects there are \
                 {MOST_MATCHES} matches already; delegate less"
            );
            messages.warn(path, text);
            return;
        }
        let Some(merged) = merge(&root.spec.http[index], raw) else {
            let text = format!(
                "http[{j}] of {leaf_name} is left out: none of its matches is narrower than this rule's"
            );
            messages.warn(path, text);
            continue;
        };
        let origin = Origin {
            virtual_service: name.clone(),
            delegate: Some(leaf_name.clone()),
            place: format!("http[{index}] > http[{j}]"),
            path: format!("spec.http[{index}]"),
            mesh,
        };
        // Each half was checked where it stands; only what the two halves say together can be wrong now.
        let mut together = Messages::after(*messages.regexes());
        let rule = HttpRule::compile(&merged, &origin, &mut together);
        let errors = together.has_errors();
        *messages.regexes() = *together.regexes();
        for message in together.into_vec().into_iter().filter(|_| errors) {
            messages.warn(&path, format!("http[{j}] of {leaf_name} is left out: {message}"));
        }
        rules.extend(rule.filter(|_| !errors).map(Arc::new));
    }
}

/// The root's rule and the delegate's as one; `None` when they have no match in common.
fn merge(root: &HttpRoute, leaf: &HttpRoute) -> Option<HttpRoute> {
    let mut merged = leaf.clone();
    merged.delegate = None;
    if merged.matches.is_empty() {
        merged.matches.clone_from(&root.matches);
    } else if !root.matches.is_empty() {
        let pairs =
            root.matches.iter().flat_map(|outer| leaf.matches.iter().map(move |inner| (outer, inner)));
        merged.matches = pairs.filter_map(|(outer, inner)| merge_match(outer, inner)).collect();
        if merged.matches.is_empty() {
            return None;
        }
    }
    merged.name = joined(root.name.as_ref(), leaf.name.as_ref());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    merged.cors_policy = merged.cors_policy.or_else(|| root.cors_policy.clone());
    if merged.redirect.is_some() || merged.direct_response.is_some() {
        return Some(merged);
    }
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.timeout = merged.timeout.or(root.timeout);
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    if merged.mirror.is_none() && merged.mirrors.is_empty() {
        merged.mirror.clone_from(&root.mirror);
        merged.mirrors.clone_from(&root.mirrors);
        merged.mirror_percentage = root.mirror_percentage;
        merged.mirror_percent = root.mirror_percent;
    }
    Some(merged)
}

/// What meets both; `None` unless that is known to be within the root's match.
fn merge_match(root: &HttpMatch, leaf: &HttpMatch) -> Option<HttpMatch> {
    if two_regexes(root, leaf) {
        return None;
    }
    let text = |root: &Option<StringMatch>, leaf: &Option<StringMatch>| leaf.clone().or_else(|| root.clone());
    let merged = HttpMatch {
        name: joined(root.name.as_ref(), leaf.name.as_ref()),
        uri: text(&root.uri, &leaf.uri),
        ignore_uri_case: if leaf.uri.is_some() { leaf.ignore_uri_case } else { root.ignore_uri_case },
        scheme: text(&root.scheme, &leaf.scheme),
        method: text(&root.method, &leaf.method),
        authority: text(&root.authority, &leaf.authority),
        headers: union(&root.headers, &leaf.headers),
        without_headers: union(&root.without_headers, &leaf.without_headers),
        query_params: union(&root.query_params, &leaf.query_params),
        port: leaf.port.or(root.port),
        source_labels: union(&root.source_labels, &leaf.source_labels),
        source_namespace: leaf.source_namespace.clone().or_else(|| root.source_namespace.clone()),
        gateways: if root.gateways.is_empty() { leaf.gateways.clone() } else { root.gateways.clone() },
        stat_prefix: leaf.stat_prefix.clone().or_else(|| root.stat_prefix.clone()),
    };
    // A root's match that is for gateways only says nothing here, and stays so.
    let on_mesh = HttpMatch { gateways: Vec::new(), ..root.clone() };
    covers(&on_mesh, &merged).then_some(merged)
}

/// Of two regexes nobody can tell which is narrower; upstream calls even equal ones a conflict.
fn two_regexes(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let both = |a: Option<&StringMatch>, b: Option<&StringMatch>| {
        a.is_some_and(|a| a.regex.is_some()) && b.is_some_and(|b| b.regex.is_some())
    };
    let maps = |a: &BTreeMap<String, StringMatch>, b: &BTreeMap<String, StringMatch>| {
        a.iter().any(|(name, a)| both(Some(a), b.get(name)))
    };
    both(root.uri.as_ref(), leaf.uri.as_ref())
        || both(root.scheme.as_ref(), leaf.scheme.as_ref())
        || both(root.method.as_ref(), leaf.method.as_ref())
        || both(root.authority.as_ref(), leaf.authority.as_ref())
        || maps(&root.headers, &leaf.headers)
        || maps(&root.without_headers, &leaf.without_headers)
        || maps(&root.query_params, &leaf.query_params)
}

fn union<T: Clone>(root: &BTreeMap<String, T>, leaf: &BTreeMap<String, T>) -> BTreeMap<String, T> {
    root.iter().chain(leaf).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn joined(root: Option<&String>, leaf: Option<&String>) -> Option<String> {
    let names: Vec<_> = [root, leaf].into_iter().flatten().filter(|name| !name.is_empty()).cloned().collect();
    (!names.is_empty()).then(|| names.join("-"))
}
