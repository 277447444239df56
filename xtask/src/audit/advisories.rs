//! Which crates of a lock have known weaknesses, by the recorded advisories. Pure.

use anyhow::{Context as _, Result};
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

use super::{
    lock::{Lock, Locked},
    policy::Advisories,
};

/// After so long somebody should renew the record.
const OLD_DAYS: i64 = 180;
/// After so long an audit by it fails.
const TOO_OLD_DAYS: i64 = 365;

/// The advisories of RustSec/advisory-db (CC0-1.0) at one commit, without their texts.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub commit: String,
    /// Of the commit.
    pub date: String,
    /// Those of crates.io that are not withdrawn, by id.
    pub advisories: Vec<Advisory>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Advisory {
    pub id: String,
    #[serde(rename = "crate")]
    pub name: String,
    /// `vulnerability`, or RustSec's word for what is less: `unsound`, `unmaintained`, `notice`.
    pub kind: String,
    /// Versions that are mended; none is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patched: Vec<VersionReq>,
    /// Versions that never had it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unaffected: Vec<VersionReq>,
}

/// What a record's age comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Age {
    /// Nothing to say.
    Young,
    /// It should be renewed; in words.
    Old(String),
    /// It says too little to rely on; in words.
    TooOld(String),
}

impl Record {
    /// How old it is on a day of that number since 1970.
    ///
    /// # Errors
    /// Its date is none.
    pub fn age(&self, today: i64) -> Result<Age> {
        let date =
            day(&self.date).with_context(|| format!("{:?} is not a date such as 2026-08-21", self.date))?;
        let days = today - date;
        let text = format!(
            "the advisories are {days} days old; renew them with `cargo xtask audit --record DIR`, a checkout of \
             RustSec/advisory-db"
        );
        Ok(if days <= OLD_DAYS {
            Age::Young
        } else if days <= TOO_OLD_DAYS {
            Age::Old(text)
        } else {
            Age::TooOld(text)
        })
    }

    /// A line for each crate with a weakness that nobody has put aside, and for each reason that is not needed any more.
    pub fn findings(&self, lock: &Lock, policy: &Advisories) -> Vec<String> {
        let ignored = |advisory: &Advisory| {
            policy.ignore.iter().any(|ignored| ignored.id == advisory.id && !ignored.reason.trim().is_empty())
        };
        let hits = || {
            lock.package.iter().filter(|locked| locked.source.is_some()).flat_map(|locked| {
                self.advisories
                    .iter()
                    .filter(|advisory| advisory.hits(locked))
                    .map(move |found| (locked, found))
            })
        };
        let stale = policy.ignore.iter().filter(|ignored| hits().all(|(_, found)| found.id != ignored.id));
        let stale =
            stale.map(|ignored| format!("deny.toml ignores {}, which no crate of ours has", ignored.id));
        hits()
            .filter(|(_, advisory)| !ignored(advisory))
            .map(|(locked, found)| found.line(locked))
            .chain(stale)
            .collect()
    }

    /// One advisory a line, so that a renewed record is read by its difference.
    ///
    /// # Errors
    /// None that is known.
    pub fn to_text(&self) -> serde_json::Result<String> {
        let lines =
            self.advisories.iter().map(serde_json::to_string).collect::<serde_json::Result<Vec<_>>>()?;
        let (commit, date) = (serde_json::to_string(&self.commit)?, serde_json::to_string(&self.date)?);
        Ok(format!("{{\"commit\":{commit},\"date\":{date},\"advisories\":[\n{}\n]}}\n", lines.join(",\n")))
    }
}

impl Advisory {
    fn hits(&self, locked: &Locked) -> bool {
        let within = |ranges: &[VersionReq]| ranges.iter().any(|range| holds(range, &locked.version));
        self.name == locked.name && !within(&self.patched) && !within(&self.unaffected)
    }

    fn line(&self, locked: &Locked) -> String {
        let Self { id, kind, .. } = self;
        let ranges: Vec<String> = self.patched.iter().map(VersionReq::to_string).collect();
        let way = match ranges.is_empty() {
            true => "no version is mended".to_owned(),
            false => format!("mended in {}", ranges.join(" or ")),
        };
        format!("{} {}: {id} ({kind}); {way}", locked.name, locked.version)
    }
}

/// The number of a day such as `2026-08-21` since 1970, in the Gregorian calendar.
fn day(date: &str) -> Option<i64> {
    let mut parts = date.split('-').map(str::parse::<i64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let valid = parts.next().is_none() && (1..=12).contains(&month) && (1..=31).contains(&day);
    // A year begins in March here, so that the day that not every year has is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    valid.then(|| year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468)
}

/// A version before a release is within a range if its release is: `semver` would have ranges name it.
fn holds(range: &VersionReq, version: &Version) -> bool {
    range.matches(version) || range.matches(&Version::new(version.major, version.minor, version.patch))
}

#[cfg(test)]
mod tests {
    use super::{super::policy::Ignored, *};

    fn lock(name: &str, version: &str) -> Lock {
        let text = format!("[[package]]\nname = {name:?}\nversion = {version:?}\nsource = \"registry\"\n");
        toml::from_str(&text).expect("a lock")
    }

    fn whole() -> Record {
        serde_json::from_str(include_str!("../../advisories.json")).expect("the record")
    }

    /// As it is recorded, without what has been found since these tests were written.
    fn recorded() -> Record {
        let mut record = whole();
        record.advisories.retain(|advisory| advisory.id.as_str() < "RUSTSEC-2026");
        record
    }

    #[test]
    fn a_weakness_is_told_with_crate_advisory_and_the_version_that_is_mended() {
        let h2 = |version: &str| format!("h2 {version}: RUSTSEC-2024-0332 (vulnerability); mended in ");
        for (name, version, said) in [
            ("h2", "0.4.3", format!("{}^0.3.26 or >=0.4.4", h2("0.4.3"))),
            ("h2", "0.4.4", String::new()),
            ("h2", "0.3.26", String::new()),
            ("atty", "0.2.14", "no version is mended".to_owned()),
            ("hyper", "0.14.9", "RUSTSEC-2021-0079".to_owned()),
            ("no-such-crate", "0.1.0", String::new()),
        ] {
            let found = recorded().findings(&lock(name, version), &Advisories::default()).join("\n");
            assert!(
                found.contains(&said) && found.is_empty() == said.is_empty(),
                "{name} {version}: {found}"
            );
        }
    }

    #[test]
    fn a_weakness_is_put_aside_with_a_reason_for_as_long_as_it_is_there() {
        let ignore = |id: &str, reason: &str| Advisories {
            ignore: vec![Ignored { id: id.to_owned(), reason: reason.to_owned() }],
        };
        for (version, id, reason, findings) in [
            ("0.4.3", "RUSTSEC-2024-0332", "no strangers speak to it", 0),
            ("0.4.3", "RUSTSEC-2024-0332", " ", 1),
            ("0.4.3", "RUSTSEC-2024-0003", "another one", 2),
            ("0.4.4", "RUSTSEC-2024-0332", "mended meanwhile", 1),
        ] {
            let found = recorded().findings(&lock("h2", version), &ignore(id, reason));
            assert_eq!(found.len(), findings, "{version} {id} {reason:?}: {found:?}");
        }
    }

    #[test]
    fn days_are_counted_through_leap_years() {
        for (date, want) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(11_016)),
            ("2000-03-01", Some(11_017)),
            ("2026-08-21", Some(20_686)),
            ("2026-13-01", None),
            ("2026-08", None),
            ("today", None),
        ] {
            assert_eq!(day(date), want, "{date}");
        }
    }

    #[test]
    fn an_old_record_is_told_and_one_of_more_than_a_year_is_none() {
        let record = recorded();
        let made = day(&record.date).expect("a date");
        assert_eq!(record.age(made).expect("an age"), Age::Young);
        assert_eq!(record.age(made + 180).expect("an age"), Age::Young);
        assert!(
            matches!(record.age(made + 181).expect("an age"), Age::Old(text) if text.contains("181 days"))
        );
        assert!(matches!(record.age(made + 365).expect("an age"), Age::Old(_)));
        assert!(matches!(record.age(made + 366).expect("an age"), Age::TooOld(_)));
    }

    #[test]
    fn what_comes_before_a_release_is_judged_as_the_release() {
        let range = VersionReq::parse(">=1.2.0").expect("a range");
        for (version, within) in [("1.2.0-rc.1", true), ("1.3.0-rc.1", true), ("1.1.0-rc.1", false)] {
            assert_eq!(holds(&range, &Version::parse(version).expect("a version")), within, "{version}");
        }
    }

    #[test]
    fn the_record_is_written_as_it_was_read() {
        let record = whole();
        assert_eq!(record.to_text().expect("text"), include_str!("../../advisories.json"));
        assert!(record.advisories.len() > 500, "of all of crates.io");
    }
}
