//! Regular expressions of rules, linear in their input as RE2's are, and bounded: each by itself, and all of an object together.
//!
//! A thousand characters bound nothing: `\pL{900}` is nine, and megabytes. What is too large is refused by name.

use std::fmt;

use regex_automata::{
    meta::{self, BuildError, Config},
    nfa::thompson::WhichCaptures,
    util::{interpolate, syntax},
};

use super::{objects::Messages, work::Work};

/// Longest regex, in characters, as upstream.
pub(crate) const MAX_CHARS: usize = 1_024;
/// Bytes of one, compiled. Those of Istio's documentation take 2,000 to 11,000; a `\w` of Unicode takes 57,000, `\w+@\w+` twice
/// that. On 60 KB of hostile input one of this size takes half a second.
const MAX_BYTES: usize = 128 << 10;
/// How many an object may have.
const MOST: usize = 256;
/// Bytes of all of an object, compiled.
const MOST_BYTES: usize = 4 << 20;
/// What each worker remembers of one while it matches: more makes it no faster on ordinary input, and slower on hostile one.
const CACHE_BYTES: usize = 64 << 10;

/// A compiled regex, and the bytes it takes.
#[derive(Clone)]
pub struct Regex(meta::Regex, usize);

/// What a regex is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// It must fit a whole value, of any bytes.
    WholeValue,
    /// It is found in a text, and parts of that are kept.
    Replacing,
}

impl Regex {
    /// Compiles `text`; adds an error and returns `None` when it is empty, too long, no regex, or more than may be.
    pub(crate) fn compile(text: &str, purpose: Purpose, path: &str, messages: &mut Messages) -> Option<Self> {
        let length = text.chars().count();
        if length == 0 || length > MAX_CHARS {
            messages.error(path, format!("a regex has 1 to {MAX_CHARS} characters, this one {length}"));
            return None;
        }
        if messages.regexes().count >= MOST {
            let text = format!("an object has {MOST} regexes at most; use prefix and exact, or more objects");
            messages.error(path, text);
            return None;
        }
        match build(text, purpose) {
            Ok(regex) => {
                let so_far = messages.regexes();
                so_far.count += 1;
                so_far.bytes += regex.1;
                if so_far.bytes > MOST_BYTES {
                    let text = format!(
                        "the regexes of this object up to here take more than {MOST_BYTES} bytes, compiled; {SMALLER}"
                    );
                    messages.error(path, text);
                    return None;
                }
                Some(regex)
            }
            Err(why) => {
                messages.regexes().count += 1;
                messages.error(path, format!("{text:?} {why}"));
                None
            }
        }
    }

    /// Whether it fits; not when `work` is spent.
    pub fn is_match(&self, value: &[u8], work: Option<&Work>) -> bool {
        self.look(work, value.len(), || self.0.is_match(value)).unwrap_or(false)
    }

    fn look<T>(&self, work: Option<&Work>, length: usize, look: impl FnOnce() -> T) -> Option<T> {
        match work {
            Some(work) => work.run(self.1, length, look),
            None => Some(look()),
        }
    }

    /// How many groups it has.
    pub fn groups(&self) -> usize {
        self.0.captures_len() - 1
    }

    /// `text` with `template` in place of everything that fits until `work` is spent; `${1}` there is the first group.
    pub fn replace_all(&self, text: &str, template: &str, work: Option<&Work>) -> String {
        let mut new = String::with_capacity(text.len());
        let mut end = 0;
        let mut finds = self.0.captures_iter(text);
        // Each may look at all of the rest.
        while let Some(found) = self.look(work, text.len() - end, || finds.next()).flatten() {
            let Some(all) = found.get_match() else { continue };
            new.push_str(text.get(end..all.start()).unwrap_or_default());
            let group = |index, new: &mut String| {
                let span = found.get_group(index);
                new.push_str(span.and_then(|span| text.get(span.range())).unwrap_or_default());
            };
            interpolate::string(template, group, |name| name.parse().ok(), &mut new);
            end = all.end();
        }
        new.push_str(text.get(end..).unwrap_or_default());
        new
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "regex of {} bytes", self.1)
    }
}

const SMALLER: &str = "repeat less, or write classes such as \\w, which mean all of Unicode, as (?-u:\\w)";

fn build(text: &str, purpose: Purpose) -> Result<Regex, String> {
    // By itself first: `a)|(b` would otherwise compile, and mean something else.
    let broken = |error: &dyn fmt::Display| format!("does not compile: {}", last_line(error));
    syntax::parse(text).map_err(|error| broken(&error))?;
    let (whole, captures) = match purpose {
        Purpose::WholeValue => (format!("^(?:{text})$"), WhichCaptures::Implicit),
        Purpose::Replacing => (text.to_owned(), WhichCaptures::All),
    };
    // Without tables for groups, which may take a mebibyte, and are not counted.
    let config = Config::new()
        .nfa_size_limit(Some(MAX_BYTES))
        .hybrid_cache_capacity(CACHE_BYTES)
        .onepass(false)
        .utf8_empty(purpose == Purpose::Replacing)
        .which_captures(captures);
    let built = meta::Regex::builder().configure(config).build(&whole);
    let sized = |regex: meta::Regex| {
        let bytes = regex.memory_usage();
        Regex(regex, bytes)
    };
    built.map(sized).map_err(|error: BuildError| match error.size_limit() {
        Some(limit) => format!("takes more than {limit} bytes, compiled; {SMALLER}"),
        None => broken(&error),
    })
}

/// A syntax error has its place drawn over several lines, the reason on the last.
fn last_line(error: &dyn fmt::Display) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn errors(regexes: &[String]) -> Vec<String> {
        let mut messages = Messages::default();
        for regex in regexes {
            Regex::compile(regex, Purpose::WholeValue, "p", &mut messages);
        }
        messages.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ordinary_ones_are_far_from_every_limit() {
        for text in [
            "^(.*?;)?(user=jason)(;.*)?$",
            ".*Beta.*",
            "^/productpage/v[0-9]+/.*$",
            r"/api/v1/users/[^/]+/orders/\d+",
            "(?i)^.*(iphone|android|mobile).*$",
            r"^(https?)://([a-z0-9-]+\.)*example\.com(:[0-9]+)?$",
            "[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
            "^[a-zA-Z0-9_-]{1,64}$",
        ] {
            let fifty: Vec<_> = (0..50).map(|_| text.to_owned()).collect();
            assert_eq!(errors(&fifty), [""; 0], "{text}");
        }
        assert_eq!(errors(&[r"\w+@\w+\.com".to_owned()]), [""; 0]);
    }

    #[test]
    fn hostile_ones_are_refused_by_name_and_soon() {
        let began = Instant::now();
        let took_too_much = "takes more than 131072 bytes, compiled; repeat less, or write classes such as \\w, which mean all \
            of Unicode, as (?-u:\\w)";
        for text in [r"\pL{900}", r"(?i)\w{500}", "((((a{50}){50}){50}){50})", ".{1000}"] {
            assert_eq!(errors(&[text.to_owned()]), [format!("p: {text:?} {took_too_much}")]);
        }
        // A mebibyte of them, as a spec may have.
        let thousands: Vec<_> = (0..100_000).map(|_| r"\pL{900}".to_owned()).collect();
        let all = errors(&thousands);
        assert_eq!(all.len(), 21);
        assert_eq!(all[20], "spec: has 99980 more such messages");
        let small: Vec<_> = (0..300).map(|i| format!("a{i}+")).collect();
        let want = "p: an object has 256 regexes at most; use prefix and exact, or more objects";
        assert_eq!(errors(&small)[0], want);
        let medium: Vec<_> = (0..200).map(|_| "[a-z]{800}".to_owned()).collect();
        assert!(errors(&medium)[0].contains("take more than 4194304 bytes"), "{:?}", errors(&medium));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn what_is_found_is_replaced_by_its_groups() {
        for (regex, template, text, want) in [
            ("b", "c", "/abab", "/acac"),
            ("^/v([0-9]+)/(.*)$", "/${2}/${1}", "/v12/x/y", "/x/y/12"),
            ("(x)?a", "<${1}>", "/a/xa", "/<>/<x>"),
            ("z", "c", "/äb", "/äb"),
            ("", "-", "ä", "-ä-"),
            ("$$", "", "a", "a"),
        ] {
            let mut messages = Messages::default();
            let Some(regex) = Regex::compile(regex, Purpose::Replacing, "p", &mut messages) else {
                assert_eq!(regex, "", "only an empty one is refused");
                continue;
            };
            assert_eq!(regex.replace_all(text, template, None), want, "{text}");
        }
    }
}
