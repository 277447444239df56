//! What is said about an object: severity, path, text. Deciding what to say is not here.

use std::fmt;

use crate::model::shorten;

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

/// Messages of one severity that are kept of an object; of the others it is told how many there are.
const MOST: usize = 20;

/// Collects the findings about one object, in the order in which they were met; bounded, whatever the object.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Messages {
    kept: Vec<Message>,
    errors: usize,
    warnings: usize,
    /// What the regexes of the object cost so far.
    regexes: Regexes,
}

/// What regexes cost together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Regexes {
    /// How many there are.
    pub count: usize,
    /// Bytes that they take, compiled.
    pub bytes: usize,
}

impl Messages {
    /// Those of an object whose regexes have cost so much already.
    pub fn after(regexes: Regexes) -> Self {
        Self { regexes, ..Self::default() }
    }

    /// Adds an [`Severity::Error`].
    pub fn error(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.add(Message { severity: Severity::Error, path: path.into(), text: text.into() });
    }

    /// Adds a [`Severity::Warning`].
    pub fn warn(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.add(Message { severity: Severity::Warning, path: path.into(), text: text.into() });
    }

    /// Adds a message, unless there are many of its severity.
    pub fn add(&mut self, mut message: Message) {
        let count = match message.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count <= MOST {
            shorten(&mut message.path);
            shorten(&mut message.text);
            self.kept.push(message);
        }
    }

    /// The error of a field that upstream knows and we refuse.
    pub fn unsupported(&mut self, path: impl Into<String>, why: &str) {
        self.error(path, format!("is not supported: {why}"));
    }

    /// Whether the object must be rejected.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// What the regexes of the object cost so far.
    pub const fn regexes(&mut self) -> &mut Regexes {
        &mut self.regexes
    }

    /// All that are kept, and how many there are besides.
    pub fn into_vec(self) -> Vec<Message> {
        let mut all = self.kept;
        for (severity, count) in [(Severity::Error, self.errors), (Severity::Warning, self.warnings)] {
            if count > MOST {
                let text = format!("has {} more such messages", count - MOST);
                all.push(Message { severity, path: "spec".to_owned(), text });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_and_errors_are_not_hidden_by_warnings() {
        let mut messages = Messages::default();
        (0..100_000).for_each(|i| messages.warn(format!("spec.{i}"), "is odd"));
        assert!(!messages.has_errors());
        (0..21).for_each(|i| messages.error(format!("spec.{i}"), "é".repeat(10_000)));
        assert!(messages.has_errors());
        let all = messages.into_vec();
        assert_eq!(all.len(), 42);
        assert!(all.iter().all(|message| message.path.len() < 1_000 && message.text.len() < 1_000));
        assert_eq!(all[20].severity, Severity::Error);
        let last: Vec<_> = all[40..].iter().map(|message| (message.severity, message.to_string())).collect();
        let more = |severity, count| (severity, format!("spec: has {count} more such messages"));
        assert_eq!(last, [more(Severity::Error, 1), more(Severity::Warning, 99_980)]);
    }
}
