//! StringMatch, compiled: exact, prefix, regex, presence. What the strings are is in `matching.rs`.

use std::fmt;

use super::{
    objects::{Messages, StringMatch},
    regex::{Purpose, Regex},
    work::Work,
};

/// A compiled StringMatch.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// The whole string.
    Exact(Box<str>),
    /// Its beginning, as a string: `/foo` is a prefix of `/foobar`.
    Prefix(Box<str>),
    /// The whole string matches; the text is the user's.
    Regex(Box<str>, Regex),
    /// Anything, as long as it is there.
    Present,
}

impl Pattern {
    /// Compiles `raw`; `None` after an error was added.
    pub(crate) fn compile(raw: &StringMatch, path: &str, messages: &mut Messages) -> Option<Self> {
        match (&raw.exact, &raw.prefix, &raw.regex) {
            (None, None, None) => Some(Self::Present),
            (Some(exact), None, None) => Some(Self::Exact(exact.as_str().into())),
            (None, Some(prefix), None) => Some(Self::Prefix(prefix.as_str().into())),
            // `*` is no regex, but upstream has always read it as "any value".
            (None, None, Some(regex)) if regex == "*" => Some(Self::Present),
            (None, None, Some(regex)) => {
                let path = format!("{path}.regex");
                let compiled = Regex::compile(regex, Purpose::WholeValue, &path, messages)?;
                Some(Self::Regex(regex.as_str().into(), compiled))
            }
            _ => {
                messages.error(path, "has more than one of exact, prefix and regex; keep one");
                None
            }
        }
    }

    /// Whether `value` fits; `ignore_case` (ASCII) concerns exact and prefix only, as upstream.
    pub(crate) fn fits(&self, value: &[u8], ignore_case: bool, work: Option<&Work>) -> bool {
        match self {
            Self::Exact(exact) if ignore_case => value.eq_ignore_ascii_case(exact.as_bytes()),
            Self::Exact(exact) => value == exact.as_bytes(),
            Self::Prefix(prefix) if ignore_case => {
                value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Regex(_, regex) => regex.is_match(value, work),
            Self::Present => true,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "exact {text:?}"),
            Self::Prefix(text) => write!(f, "prefix {text:?}"),
            Self::Regex(text, _) => write!(f, "regex {text:?}"),
            Self::Present => f.write_str("any value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::regex::MAX_CHARS, *};

    fn raw(kind: &str, text: &str) -> StringMatch {
        let text = Some(text.to_owned());
        match kind {
            "exact" => StringMatch { exact: text, ..StringMatch::default() },
            "prefix" => StringMatch { prefix: text, ..StringMatch::default() },
            "regex" => StringMatch { regex: text, ..StringMatch::default() },
            _ => StringMatch::default(),
        }
    }

    #[test]
    fn string_match() {
        for (case, kind, pattern, value, ignore_case, want) in [
            ("exact", "exact", "/a", "/a", false, true),
            ("exact is the whole", "exact", "/a", "/ab", false, false),
            ("exact minds case", "exact", "/a", "/A", false, false),
            ("exact, case ignored", "exact", "/a", "/A", true, true),
            ("prefix is a string", "prefix", "/foo", "/foobar", false, true),
            ("prefix longer than the value", "prefix", "/foo", "/fo", true, false),
            ("prefix, case ignored", "prefix", "/foo", "/FOObar", true, true),
            ("prefix cuts a character", "prefix", "/aa", "/ä", true, false),
            ("empty prefix", "prefix", "", "x", false, true),
            ("regex is the whole", "regex", "a|b", "ab", false, false),
            ("regex", "regex", "a+|b", "aaa", false, true),
            ("regex ignores ignoreUriCase", "regex", "a", "A", true, false),
            ("regex with its own flag", "regex", "(?i)a", "A", false, true),
            ("regex star is presence", "regex", "*", "anything", false, true),
            ("empty is presence", "", "", "anything", false, true),
        ] {
            let mut messages = Messages::default();
            let compiled = Pattern::compile(&raw(kind, pattern), "p", &mut messages).unwrap();
            assert_eq!(compiled.fits(value.as_bytes(), ignore_case, None), want, "{case}");
        }
    }

    #[test]
    fn a_regex_that_is_refused_says_why() {
        let long = "a".repeat(MAX_CHARS + 1);
        for (case, pattern, want) in [
            ("empty", "", "p.regex: a regex has 1 to 1024 characters, this one 0"),
            ("too long", long.as_str(), "p.regex: a regex has 1 to 1024 characters, this one 1025"),
            ("unbalanced", "a)|(b", "p.regex: \"a)|(b\" does not compile: unopened group"),
            (
                "back reference",
                r"(a)\1",
                "p.regex: \"(a)\\\\1\" does not compile: backreferences are not supported",
            ),
        ] {
            let mut messages = Messages::default();
            assert!(Pattern::compile(&raw("regex", pattern), "p", &mut messages).is_none(), "{case}");
            assert_eq!(messages.into_vec()[0].to_string(), want, "{case}");
        }
        let mut messages = Messages::default();
        let two = StringMatch { exact: Some("a".into()), prefix: Some("a".into()), regex: None };
        assert!(Pattern::compile(&two, "p", &mut messages).is_none());
    }
}
