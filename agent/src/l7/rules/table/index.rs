//! Finds the rules that a request may meet without trying all of them. Whether one is met is in `matches.rs`.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, sync::Arc};

use http::HeaderName;

use super::super::{
    matching::{Condition, Part, RequestView, header, query_param},
    pattern::Pattern,
};
use super::{HttpRule, Match};

/// The matches of a list of rules, in order and each under one of its conditions.
///
/// A request is looked up under its own path, headers and so on; a match that stands under a condition that the
/// request does not meet is never tried.
#[derive(Clone, Default, Debug)]
pub(super) struct Index {
    /// Rule, and match within it; `None` for a rule without matches.
    entries: Vec<(usize, Option<usize>)>,
    exact: Paths,
    /// Those with `ignoreUriCase`, in lower case.
    folded: Paths,
    headers: Vec<(HeaderName, Buckets<[u8]>)>,
    query: Vec<(Box<str>, Buckets<[u8]>)>,
    parts: Vec<(Part, Buckets<[u8]>)>,
    /// Matches without a condition that can be looked up: regexes, presence, what must be absent.
    rest: Vec<u32>,
}

/// Numbers of entries, ascending, by what must be equal.
type Buckets<K> = HashMap<Box<K>, Vec<u32>>;

/// Entries that stand under a path.
#[derive(Clone, Default, Debug)]
struct Paths {
    whole: Buckets<str>,
    prefixes: Vec<Prefix>,
}

/// One prefix among those of a table, which are sorted.
#[derive(Clone, Debug)]
struct Prefix {
    text: Box<str>,
    /// Place of the longest other prefix that this one begins with.
    parent: Option<usize>,
    entries: Vec<u32>,
}

/// A condition that can be looked up. Of two that are equally rare, the first of these is taken.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Key {
    Path(Box<str>, bool),
    Header(HeaderName, Box<[u8]>),
    Query(Box<str>, Box<[u8]>),
    Prefix(Box<str>, bool),
    Part(Part, Box<[u8]>),
}

impl Index {
    pub(super) fn new(rules: &[Arc<HttpRule>]) -> Self {
        let mut index = Self::default();
        let mut keys: Vec<Vec<Key>> = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let own = rule.matches.iter().enumerate().map(|(i, entry)| (Some(i), keys_of(entry)));
            let everything = rule.matches.is_empty().then(|| (None, Vec::new()));
            for (entry, entry_keys) in own.chain(everything) {
                index.entries.push((number, entry));
                keys.push(entry_keys);
            }
        }
        let mut uses: HashMap<&Key, usize> = HashMap::new();
        keys.iter().flatten().for_each(|key| *uses.entry(key).or_default() += 1);
        let rarest = |keys: &[Key]| keys.iter().min_by_key(|key| (uses.get(key), key.rank())).cloned();
        let chosen: Vec<Option<Key>> = keys.iter().map(|keys| rarest(keys)).collect();
        for (entry, key) in (0..).zip(chosen) {
            index.put(entry, key);
        }
        index.exact.seal();
        index.folded.seal();
        index
    }

    fn put(&mut self, entry: u32, key: Option<Key>) {
        let bucket = match key {
            None => &mut self.rest,
            Some(Key::Path(path, fold)) => self.paths(fold).whole.entry(path).or_default(),
            Some(Key::Prefix(prefix, fold)) => self.paths(fold).prefix(prefix),
            Some(Key::Header(name, value)) => group(&mut self.headers, name).entry(value).or_default(),
            Some(Key::Query(name, value)) => group(&mut self.query, name).entry(value).or_default(),
            Some(Key::Part(part, value)) => group(&mut self.parts, part).entry(value).or_default(),
        };
        bucket.push(entry);
    }

    fn paths(&mut self, fold: bool) -> &mut Paths {
        if fold { &mut self.folded } else { &mut self.exact }
    }

    /// The first entry in order that `fits` among those that `request` may meet.
    pub(super) fn first(
        &self,
        request: &RequestView<'_>,
        fits: impl Fn(usize, Option<usize>) -> bool,
    ) -> Option<(usize, Option<usize>)> {
        let mut best = u32::MAX;
        let mut consider = |bucket: &[u32]| {
            let earlier = bucket.iter().take_while(|entry| **entry < best);
            let found = earlier.copied().find(|entry| {
                self.entries.get(*entry as usize).is_some_and(|(rule, entry)| fits(*rule, *entry))
            });
            best = found.unwrap_or(best);
        };
        self.exact.look_up(request.path, &mut consider);
        if !self.folded.is_empty() {
            self.folded.look_up(&request.path.to_ascii_lowercase(), &mut consider);
        }
        for (name, values) in &self.headers {
            look_up(values, header(request.headers, name).as_deref(), &mut consider);
        }
        for (name, values) in &self.query {
            look_up(values, query_param(request.query, name).map(str::as_bytes), &mut consider);
        }
        for (part, values) in &self.parts {
            look_up(values, Some(part.of(request).as_bytes()), &mut consider);
        }
        consider(&self.rest);
        self.entries.get(best as usize).copied()
    }
}

impl Key {
    const fn rank(&self) -> u8 {
        match self {
            Self::Path(..) => 0,
            Self::Header(..) => 1,
            Self::Query(..) => 2,
            Self::Prefix(..) => 3,
            Self::Part(..) => 4,
        }
    }
}

impl Paths {
    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.prefixes.is_empty()
    }

    /// The bucket of `text`.
    fn prefix(&mut self, text: Box<str>) -> &mut Vec<u32> {
        let place = match self.prefixes.binary_search_by(|prefix| prefix.text.cmp(&text)) {
            Ok(place) => place,
            Err(place) => {
                self.prefixes.insert(place, Prefix { text, parent: None, entries: Vec::new() });
                place
            }
        };
        &mut self.prefixes[place].entries
    }

    /// Finds the parents, once all prefixes are there.
    fn seal(&mut self) {
        // Each of these begins with the one before it; all that begin with one follow it without a gap.
        let mut open: Vec<usize> = Vec::new();
        for place in 0..self.prefixes.len() {
            let text = self.prefixes[place].text.clone();
            while open.pop_if(|outer| !text.starts_with(&*self.prefixes[*outer].text)).is_some() {}
            self.prefixes[place].parent = open.last().copied();
            open.push(place);
        }
    }

    fn look_up(&self, path: &str, consider: &mut impl FnMut(&[u32])) {
        look_up(&self.whole, Some(path), consider);
        // The last one that does not come after the path begins with each prefix of the path, or is the longest.
        let mut place = self.prefixes.partition_point(|prefix| *prefix.text <= *path).checked_sub(1);
        while let Some(prefix) = place.and_then(|place| self.prefixes.get(place)) {
            if path.starts_with(&*prefix.text) {
                consider(&prefix.entries);
            }
            place = prefix.parent;
        }
    }
}

fn look_up<K>(buckets: &Buckets<K>, key: Option<&K>, consider: &mut impl FnMut(&[u32]))
where
    K: ?Sized + Eq + Hash,
    Box<K>: Borrow<K> + Eq + Hash,
{
    if let Some(bucket) = key.and_then(|key| buckets.get(key)) {
        consider(bucket);
    }
}

/// The buckets of `name`; there are few names, and they are gone through for each request anyway.
fn group<N: PartialEq>(groups: &mut Vec<(N, Buckets<[u8]>)>, name: N) -> &mut Buckets<[u8]> {
    let place = groups.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
        groups.push((name, Buckets::new()));
        groups.len() - 1
    });
    &mut groups[place].1
}

/// What of a match can be looked up.
fn keys_of(entry: &Match) -> Vec<Key> {
    let key = |condition: &Condition| match condition {
        Condition::Uri(Pattern::Exact(text), fold) => Some(Key::Path(folded(text, *fold), *fold)),
        Condition::Uri(Pattern::Prefix(text), fold) => Some(Key::Prefix(folded(text, *fold), *fold)),
        Condition::Header(name, Pattern::Exact(text)) => {
            Some(Key::Header(name.clone(), text.as_bytes().into()))
        }
        Condition::Query(name, Pattern::Exact(text)) => {
            Some(Key::Query(name.clone(), text.as_bytes().into()))
        }
        Condition::Part(part, Pattern::Exact(text)) => Some(Key::Part(*part, text.as_bytes().into())),
        Condition::Uri(Pattern::Regex(..) | Pattern::Present, _)
        | Condition::Part(..)
        | Condition::Header(..)
        | Condition::WithoutHeader(..)
        | Condition::WithoutPart(..)
        | Condition::Query(..) => None,
    };
    entry.conditions().iter().filter_map(key).collect()
}

fn folded(text: &str, fold: bool) -> Box<str> {
    if fold { text.to_ascii_lowercase().into() } else { text.into() }
}
