//! What the redirector counted of requests, by where they went: what it tells the agent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Histogram;

/// Which rule took a request, and where it was sent; parts that there were none of are empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteName {
    /// `namespace/name` of the VirtualService.
    pub virtual_service: String,
    /// The rule's name, or its place, as in `http[0]`.
    pub rule: String,
    /// `host:port`, and the subset behind it.
    pub destination: String,
}

/// `text`, cut to [`RouteName::LONGEST`] bytes: what comes from objects may be as long as anyone likes.
pub fn shortened(text: &str) -> &str {
    if text.len() <= RouteName::LONGEST {
        return text;
    }
    let end = (0..=RouteName::LONGEST).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

impl RouteName {
    /// Names that metrics and logs tell apart; what comes later is counted together.
    pub const MOST: usize = 500;
    /// Bytes of a rule's, host's or subset's name that metrics and logs keep: as many as an object's name may have.
    pub const LONGEST: usize = 253;

    /// What stands for all those for which there was no room.
    pub fn others() -> Self {
        let other = || "other".to_owned();
        Self { virtual_service: other(), rule: other(), destination: other() }
    }

    /// As metrics tell them apart.
    pub fn labels(&self) -> [(&'static str, &str); 3] {
        let Self { virtual_service, rule, destination } = self;
        [("virtual_service", virtual_service), ("rule", rule), ("destination", destination)]
    }
}

/// What became of those requests.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteCounts {
    /// Answers by class (`2xx`), and `none` where the client left before the answer.
    pub answers: BTreeMap<String, u64>,
    /// From the request's head to the end of its answer.
    pub took: Histogram,
}

impl RouteCounts {
    /// Classes of answers, 1xx first, and none at all.
    pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];
    /// Bounds of `took`, in seconds.
    pub const BOUNDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        for (class, count) in &other.answers {
            *self.answers.entry(class.clone()).or_default() += count;
        }
        self.took.add(&other.took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_characters() {
        let umlauts = "ä".repeat(127);
        for (case, text, want) in [
            ("nothing", String::new(), 0),
            ("short", "http[0]".to_owned(), 7),
            ("as long as it may be", "x".repeat(253), 253),
            ("longer", "x".repeat(1 << 20), 253),
            ("in the middle of a character", umlauts, 252),
        ] {
            let cut = shortened(&text);
            assert!(text.starts_with(cut) && cut.len() == want, "{case}: {cut}");
        }
    }
}
