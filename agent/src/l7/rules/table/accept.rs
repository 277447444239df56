//! From JSON to a VirtualService that can be used, or the reasons why not. Other objects are not looked at.

use std::sync::Arc;

use serde_json::Value;

use super::super::{
    ObjectName,
    hosts::{Export, HostPattern, Mesh, binds_mesh, compile_hosts},
    l4::L4Rule,
    objects::{self, Message, Messages, Meta, VirtualServiceSpec},
    tcp, tls,
};
use super::{
    HttpRule,
    covers::warn_unreachable,
    rule::{Origin, check_exclusive, compile_matches},
};

/// What reading an object gave.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// Namespace and name, as far as they could be read.
    pub name: ObjectName,
    /// `None` when the object is rejected.
    pub value: Option<Arc<T>>,
    /// In the order in which they were met.
    pub messages: Vec<Message>,
}

/// A VirtualService without errors of its own.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// Identity and age.
    pub meta: Meta,
    /// Hosts, resolved; none for one that others delegate to.
    pub hosts: Vec<HostPattern>,
    /// Who sees it.
    pub export: Export,
    /// Whether `gateways` include the mesh.
    pub on_mesh: bool,
    pub(super) spec: VirtualServiceSpec,
    pub(super) http: Vec<HttpEntry>,
    pub(super) tls: Vec<Arc<L4Rule>>,
    pub(super) tcp: Vec<Arc<L4Rule>>,
}

/// An entry of `http`.
#[derive(Clone, Debug)]
pub(super) enum HttpEntry {
    Rule(Arc<HttpRule>),
    /// To be merged with the rules of another object.
    Delegate,
}

/// Reads and checks a VirtualService.
pub fn read_virtual_service(object: &Value, mesh: &Mesh) -> Read<VirtualService> {
    let mut messages = Messages::default();
    let (meta, spec) = objects::virtual_service(object, &mut messages);
    let name = meta.name.clone();
    let value = spec.map(|spec| compile(meta, spec, mesh, &mut messages));
    let value = value.filter(|_| !messages.has_errors()).map(Arc::new);
    Read { name, value, messages: messages.into_vec() }
}

fn compile(meta: Meta, spec: VirtualServiceSpec, mesh: &Mesh, messages: &mut Messages) -> VirtualService {
    let hosts = compile_hosts(&spec, &meta.name, mesh, messages);
    let export = Export::compile(&spec.export_to, &meta.name.namespace, messages);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        messages.error("spec", "has no rules: set http, tls or tcp");
    }
    let name = Arc::new(meta.name.clone());
    let mut http = Vec::with_capacity(spec.http.len());
    for (i, route) in spec.http.iter().enumerate() {
        let path = format!("spec.http[{i}]");
        if let Some(delegate) = &route.delegate {
            check_exclusive(route, &path, messages);
            compile_matches(route, &path, messages);
            if delegate.name.is_empty() {
                messages.error(format!("{path}.delegate.name"), "is missing");
            }
            if spec.hosts.is_empty() {
                messages.error(
                    format!("{path}.delegate"),
                    "a delegate cannot delegate: only one level is allowed",
                );
            }
            http.push(HttpEntry::Delegate);
            continue;
        }
        let origin =
            Origin { virtual_service: name.clone(), delegate: None, place: format!("http[{i}]"), path, mesh };
        http.extend(HttpRule::compile(route, &origin, messages).map(|rule| HttpEntry::Rule(Arc::new(rule))));
    }
    warn_unreachable(&spec.http, messages);
    if spec.hosts.is_empty() {
        for (field, present) in [
            ("gateways", !spec.gateways.is_empty()),
            ("tls", !spec.tls.is_empty()),
            ("tcp", !spec.tcp.is_empty()),
        ] {
            if present {
                messages.error(
                    format!("spec.{field}"),
                    "cannot be set without hosts, in an object that others delegate to",
                );
            }
        }
    }
    VirtualService {
        on_mesh: binds_mesh(&spec.gateways),
        tls: tls::compile(&spec.tls, &hosts, &name, mesh, messages).into_iter().map(Arc::new).collect(),
        tcp: tcp::compile(&spec.tcp, &name, mesh, messages).into_iter().map(Arc::new).collect(),
        meta,
        hosts,
        export,
        spec,
        http,
    }
}
