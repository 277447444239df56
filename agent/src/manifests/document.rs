//! One file: documents, kinds, types, and what is wrong with each.

use std::{path::Path, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{FileContents, Finding, Object, Placed, Severity};
use crate::{
    l7,
    model::{ObjectName, RuleKind},
    objects::{self, Converted},
};

/// Reads the documents of a file. Never fails: whatever is wrong becomes a finding.
pub fn read_text(file: &Path, bytes: &[u8]) -> FileContents {
    let mut reader = Reader { file, line: 1, contents: FileContents::default() };
    match std::str::from_utf8(bytes) {
        Err(error) => {
            reader.line += bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            reader.add("", "", Severity::Error, "is not UTF-8 text".to_owned());
        }
        Ok(text) => {
            for (line, document) in documents(text) {
                reader.line = line;
                reader.document(&document);
            }
        }
    }
    reader.contents
}

/// The documents of a YAML stream, each with the number of its first line.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") || line.starts_with("---\t") {
            documents.push((index + 1, String::new()));
        }
        if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents
}

/// The parser's limits: enough for the listing of a large cluster, and still safe from documents made to explode.
fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    if let Some(budget) = &mut options.budget {
        budget.max_nodes = 50_000_000;
        budget.max_events = 100_000_000;
    }
    options
}

/// Whether Kubernetes would accept `name`: an RFC 1123 subdomain.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

struct Reader<'f> {
    file: &'f Path,
    line: usize,
    contents: FileContents,
}

impl Reader<'_> {
    fn add(&mut self, object: &str, path: &str, severity: Severity, message: String) {
        self.contents.findings.push(Finding {
            file: self.file.to_owned(),
            line: self.line,
            object: object.to_owned(),
            path: path.to_owned(),
            severity,
            message,
        });
    }

    fn document(&mut self, text: &str) {
        if text.trim_start().starts_with('{')
            && let Ok(value) = serde_json::from_str::<Value>(text)
        {
            return self.value(value);
        }
        match serde_saphyr::from_str_with_options::<Value>(text, options()) {
            Ok(value) => self.value(value),
            Err(error) => {
                let start = self.line;
                self.line +=
                    error.location().map_or(0, |location| (location.line() as usize).saturating_sub(1));
                // The location in the text counts from the document's start: the finding has the file's line.
                let message = error.without_snippet().to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                let column = error.location().map_or(String::new(), |at| format!(", column {}", at.column()));
                self.add("", "", Severity::Error, format!("broken YAML: {message}{column}"));
                self.line = start;
            }
        }
    }

    fn value(&mut self, value: Value) {
        if value.is_null() {
            return;
        }
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, version) = (text("/kind"), text("/apiVersion"));
        let namespace = if kind == "Node" || text("/metadata/namespace").is_empty() {
            if kind == "Node" { String::new() } else { "default".to_owned() }
        } else {
            text("/metadata/namespace")
        };
        let name = text("/metadata/name");
        let name = ObjectName::new(namespace, name);
        let nameless = name.name.is_empty() || kind.is_empty();
        let title = if nameless { kind.clone() } else { format!("{kind} {name}") };
        let rule = match (version.starts_with("networking.istio.io/"), kind.as_str()) {
            (true, "VirtualService") => Some(RuleKind::VirtualService),
            (true, "DestinationRule") => Some(RuleKind::DestinationRule),
            _ => None,
        };
        let known = rule.is_some() || matches!(kind.as_str(), "Service" | "Pod" | "Node" | "EndpointSlice");
        if known && nameless {
            self.add(
                &title,
                "metadata.name",
                Severity::Error,
                "is missing; the object is left out".to_owned(),
            );
            return;
        }
        let bad = [&name.namespace, &name.name]
            .into_iter()
            .find(|part| !part.is_empty() && !is_name(part))
            .cloned();
        if let Some(bad) = bad.filter(|_| known) {
            let message =
                format!("{bad:?} is no name that Kubernetes accepts (RFC 1123); the object is left out");
            self.add(&kind, "metadata", Severity::Error, message);
            return;
        }
        match (version.as_str(), kind.as_str()) {
            ("v1", "List") => self.list(value),
            ("v1", "Service") => {
                self.convert(value, &title, objects::service, |value| Object::Service(name, value.map(Box::new)));
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.convert(value, &title, objects::slice, |value| Object::Slice(name, value));
            }
            ("v1", "Pod") => self.convert(value, &title, objects::pod_facts, |value| Object::Pod(name, value)),
            ("v1", "Node") => {
                self.convert(value, &title, objects::node, |node| Object::Node(node.unwrap_or_default()));
            }
            (_, _) if rule.is_some() => rule.into_iter().for_each(|kind| self.rule(kind, &name, value.clone(), &title)),
            (_, "") => self.add(&title, "kind", Severity::Error, "is missing; this is no Kubernetes object".to_owned()),
            (version, "Service" | "Pod" | "Node" | "EndpointSlice") => self.add(
                &title,
                "apiVersion",
                Severity::Error,
                format!("{version:?} is not known for this kind; v1 or discovery.k8s.io/v1 is. The object is left out"),
            ),
            (_, other) => {
                let message = format!("Sluice makes no use of kind {other}; the object is passed over");
                self.add(&title, "", Severity::Warning, message);
            }
        }
    }

    /// A rule object: read as the agent will read it, so that everything that is wrong with it has a line here.
    fn rule(&mut self, kind: RuleKind, name: &ObjectName, mut value: Value, title: &str) {
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.entry("namespace").or_insert_with(|| name.namespace.clone().into());
        }
        for message in l7::messages(kind, &value) {
            let severity = match message.severity {
                l7::rules::Severity::Error => Severity::Error,
                l7::rules::Severity::Warning => Severity::Warning,
            };
            self.add(title, &message.path, severity, message.text);
        }
        let object = Object::Rule(kind, name.clone(), Arc::new(value));
        self.contents.objects.push(Placed { file: self.file.to_owned(), line: self.line, object });
    }

    fn list(&mut self, value: Value) {
        match value.get("items") {
            Some(Value::Array(items)) => items.iter().for_each(|item| self.value(item.clone())),
            Some(_) | None => self.add("List", "items", Severity::Error, "is missing or no list".to_owned()),
        }
    }

    /// Gives the value its type, then converts it; complains about what neither step could use.
    fn convert<K: DeserializeOwned, T>(
        &mut self,
        value: Value,
        title: &str,
        convert: impl Fn(&K) -> Converted<T>,
        wrap: impl FnOnce(Option<T>) -> Object,
    ) {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
        let typed: Result<K, _> =
            serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string().replace(".?", "")));
        match typed {
            Err(error) => {
                let message = format!("{error}; the object is left out");
                self.add(title, &track.path().to_string(), Severity::Error, message);
            }
            Ok(typed) => {
                for path in unknown.iter().filter(|path| !path.is_empty()) {
                    self.add(title, path, Severity::Warning, "no such field; it has no effect".to_owned());
                }
                let converted = convert(&typed);
                for problem in converted.problems {
                    let severity = if problem.is_warning { Severity::Warning } else { Severity::Error };
                    self.add(title, &problem.path, severity, problem.message);
                }
                let placed =
                    Placed { file: self.file.to_owned(), line: self.line, object: wrap(converted.value) };
                self.contents.objects.push(placed);
            }
        }
    }
}
