//! Rewriting the path; the authority is in `headers.rs`, where the other ways to set it are.

use super::super::{
    matching::RequestView,
    objects::{Messages, RegexRewrite, Rewrite},
    regex::{Purpose, Regex},
};

/// What of the path the match that was met stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MatchedUri {
    /// The match says nothing about the path.
    Nothing,
    /// The first bytes.
    Prefix(usize),
    /// All of it: an exact match or a regex.
    Whole,
}

/// How a rule changes the path; the query always stays.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// Replaces what was matched: a prefix, the whole path, or the leading `/`.
    Uri(String),
    /// Replaces every occurrence of a regex.
    Regex(Regex, String),
}

impl PathRewrite {
    /// Compiles the part of `raw` that concerns the path.
    pub(crate) fn compile(raw: &Rewrite, path: &str, messages: &mut Messages) -> Option<Self> {
        let uri = raw.uri.as_deref().filter(|uri| !uri.is_empty());
        match (uri, &raw.uri_regex_rewrite) {
            (Some(_), Some(_)) => {
                messages.error(path, "has both uri and uriRegexRewrite; keep one");
                None
            }
            (Some(uri), None) if uri.contains(['?', '#']) || uri.bytes().any(|b| !b.is_ascii_graphic()) => {
                messages.error(
                    format!("{path}.uri"),
                    format!("{uri:?} is no path: no query, blanks or control characters"),
                );
                None
            }
            (Some(uri), None) => Some(Self::Uri(uri.to_owned())),
            (None, Some(regex)) => compile_regex(regex, &format!("{path}.uriRegexRewrite"), messages),
            (None, None) => {
                if raw.authority.as_deref().unwrap_or_default().is_empty() {
                    messages.error(path, "says nothing: set uri, uriRegexRewrite or authority");
                }
                None
            }
        }
    }

    /// The new path and query.
    pub fn apply(&self, request: &RequestView<'_>, matched: MatchedUri) -> String {
        let path = request.path;
        let mut new = match self {
            Self::Uri(uri) => match matched {
                MatchedUri::Nothing => format!("{uri}{}", path.strip_prefix('/').unwrap_or(path)),
                MatchedUri::Prefix(length) => format!("{uri}{}", path.get(length..).unwrap_or_default()),
                MatchedUri::Whole => uri.clone(),
            },
            Self::Regex(regex, template) => regex.replace_all(path, template, request.work),
        };
        // A path without its slash is no HTTP request.
        if !new.starts_with('/') {
            new.insert(0, '/');
        }
        if let Some(query) = request.query {
            new.push('?');
            new.push_str(query);
        }
        new
    }
}

fn compile_regex(raw: &RegexRewrite, path: &str, messages: &mut Messages) -> Option<PathRewrite> {
    let regex = Regex::compile(&raw.pattern, Purpose::Replacing, &format!("{path}.match"), messages)?;
    match template(&raw.rewrite, regex.groups()) {
        Ok(template) => Some(PathRewrite::Regex(regex, template)),
        Err(why) => {
            messages.error(format!("{path}.rewrite"), format!("{:?}: {why}", raw.rewrite));
            None
        }
    }
}

/// RE2's `\1` as our regex crate writes it, `${1}`.
fn template(rewrite: &str, groups: usize) -> Result<String, String> {
    let mut out = String::with_capacity(rewrite.len() + 8);
    let mut letters = rewrite.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => out.push_str("$$"),
            '\\' => match letters.next() {
                Some('\\') => out.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    if digit as usize - '0' as usize > groups {
                        return Err(format!("there is no group {digit}, match has {groups}"));
                    }
                    out.push_str(&format!("${{{digit}}}"));
                }
                _ => return Err("`\\` must be followed by a digit or `\\`".to_owned()),
            },
            other => out.push(other),
        }
    }
    Ok(out)
}
