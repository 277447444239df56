//! What became of tests, by what their runner prints.

/// How many tests ended how, and which failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    files: usize,
    passed: u64,
    ignored: u64,
    /// Each with its file.
    failed: Vec<String>,
}

impl Tally {
    /// What the runner of a file of tests says in `text`; `is_well` if it ended with 0.
    pub fn of(file: &str, text: &str, is_well: bool) -> Self {
        let mut tally = Self { files: 1, ..Self::default() };
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
                tally.failed.push(format!("{file}: {name}"));
            }
            let Some((_, rest)) = line.split_once("test result: ") else { continue };
            let count = |what: &str| {
                let words: Vec<&str> = rest.split([' ', ';']).filter(|word| !word.is_empty()).collect();
                let at = words.iter().position(|word| *word == what)?;
                words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
            };
            tally.passed += count("passed").unwrap_or(0);
            tally.ignored += count("ignored").unwrap_or(0);
        }
        if !is_well && tally.failed.is_empty() {
            tally.failed.push(format!("{file}: it did not end by itself, see above"));
        }
        tally
    }

    /// Whether any test was wanted.
    pub const fn ran(&self) -> bool {
        self.passed + self.ignored > 0 || !self.failed.is_empty()
    }

    /// How many passed.
    pub const fn passed(&self) -> u64 {
        self.passed
    }

    /// Counts those too.
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.passed += other.passed;
        self.ignored += other.ignored;
        self.failed.extend(other.failed);
    }

    /// Those that failed, each with its file.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// In one line.
    pub fn summary(&self) -> String {
        format!(
            "{} passed; {} failed; {} ignored, in {} files",
            self.passed,
            self.failed.len(),
            self.ignored,
            self.files
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runners_print_is_counted_and_a_crash_is_a_failure() {
        let ends =
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1s";
        let mut all = Tally::of("a.rs", ends, true);
        assert_eq!(all.summary(), "12 passed; 0 failed; 1 ignored, in 1 files");
        let bad = "test b::c ... FAILED\ntest d ... ok\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured";
        all.add(Tally::of("b.rs", bad, false));
        all.add(Tally::of("c.rs", "test e ... ok\n", false));
        assert_eq!(all.failed(), ["b.rs: b::c", "c.rs: it did not end by itself, see above"]);
        assert_eq!(all.summary(), "13 passed; 2 failed; 1 ignored, in 3 files");
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 40 filtered out";
        assert!(!Tally::of("d.rs", none, true).ran());
    }
}
