//! `exportTo`: who sees an object, and how close the object is to whoever sees it.

use super::super::objects::Messages;
use super::fault;

/// `exportTo`, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Export {
    /// Everyone; the default.
    Public,
    /// Nobody.
    Nobody,
    /// These namespaces; `.` was replaced by the object's own.
    To(Vec<String>),
}

/// How close an object is to a client; closer ones come first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// Exported to its own namespace, which is the client's.
    Private,
    /// Exported to the client's namespace by name.
    Exported,
    /// Exported to everyone.
    Public,
}

impl Export {
    /// Reads `spec.exportTo` of an object in `namespace`.
    pub(crate) fn compile(raw: &[String], namespace: &str, messages: &mut Messages) -> Self {
        let mut to = Vec::new();
        for (i, text) in raw.iter().enumerate() {
            let resolved = if text == "." { namespace } else { text };
            if to.iter().any(|other| other == resolved) {
                messages.error(format!("spec.exportTo[{i}]"), format!("{text:?} is there twice"));
            }
            if !["*", "~"].contains(&resolved) && (resolved.contains('.') || fault(resolved).is_some()) {
                messages.error(
                    format!("spec.exportTo[{i}]"),
                    format!("{text:?} is neither `*`, `.`, `~` nor the name of a namespace"),
                );
            }
            to.push(resolved.to_owned());
        }
        let special = to.iter().find(|text| ["*", "~"].contains(&text.as_str()));
        if let Some(special) = special.filter(|_| to.len() > 1) {
            messages.error("spec.exportTo", format!("{special:?} cannot stand beside other values"));
        }
        match to.first().map(String::as_str) {
            None | Some("*") => Self::Public,
            Some("~") => Self::Nobody,
            Some(_) => Self::To(to),
        }
    }

    /// How close an object of `own` namespace is to a client; `None` if the client does not see it.
    ///
    /// A client without a namespace (the host, or outside the cluster) sees public objects only.
    pub fn tier(&self, own: &str, client: Option<&str>) -> Option<Tier> {
        match (self, client) {
            (Self::Public, _) => Some(Tier::Public),
            (Self::Nobody, _) | (Self::To(_), None) => None,
            (Self::To(to), Some(client)) if to.iter().any(|name| name == client) => {
                Some(if client == own { Tier::Private } else { Tier::Exported })
            }
            (Self::To(_), Some(_)) => None,
        }
    }

    /// Namespaces named.
    pub(crate) fn named(&self) -> &[String] {
        match self {
            Self::To(to) => to,
            Self::Public | Self::Nobody => &[],
        }
    }
}
