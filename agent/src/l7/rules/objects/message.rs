//! What is said about an object: severity, path, text. Deciding what to say is not here.

use std::fmt;

/// How bad a [`Message`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// The object is rejected as a whole.
    Error,
    /// The object is used; the text says what of it is not.
    Warning,
}

/// One finding about one object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Message {
    /// Whether the object is rejected for it.
    pub severity: Severity,
    /// Path of the field, as in `spec.http[0].route[1].weight`.
    pub path: String,
    /// What is wrong, and what to do about it.
    pub text: String,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// Collects the findings about one object, in the order in which they were met.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Messages(Vec<Message>);

impl Messages {
    /// Adds an [`Severity::Error`].
    pub fn error(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.0.push(Message { severity: Severity::Error, path: path.into(), text: text.into() });
    }

    /// Adds a [`Severity::Warning`].
    pub fn warn(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.0.push(Message { severity: Severity::Warning, path: path.into(), text: text.into() });
    }

    /// The error of a field that upstream knows and we refuse.
    pub fn unsupported(&mut self, path: impl Into<String>, why: &str) {
        self.error(path, format!("is not supported: {why}"));
    }

    /// Whether the object must be rejected.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|message| message.severity == Severity::Error)
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<Message> {
        self.0
    }
}
