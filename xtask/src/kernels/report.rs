//! What came of it: for people, and as JSON.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::Value;

use super::{
    archive::Kernel,
    guest::{PROGRAMS, Step},
    machine::Boot,
};

/// Lines of a step that failed which are shown.
const SHOWN: usize = 60;

/// A kernel, and what works on it.
#[derive(Serialize, Debug)]
pub struct Outcome {
    /// Such as `6.12`.
    pub kernel: String,
    /// Such as `6.12.117+deb13-cloud-amd64`.
    pub release: String,
    /// Whether all passed.
    pub ok: bool,
    /// Names of steps.
    pub passed: Vec<String>,
    /// Names of steps, those too that did not run.
    pub failed: Vec<String>,
    /// Program → instructions that the verifier walked through.
    pub verified: BTreeMap<String, u64>,
    /// From unpacking to the end.
    pub seconds: f32,
    /// What steps printed that failed.
    #[serde(skip)]
    output: BTreeMap<String, Vec<String>>,
}

impl Outcome {
    /// Of a kernel on which nothing was tried yet.
    pub fn of(kernel: &str, release: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            release: release.to_owned(),
            ok: true,
            passed: Vec::new(),
            failed: Vec::new(),
            verified: BTreeMap::new(),
            seconds: 0.0,
            output: BTreeMap::new(),
        }
    }
}

/// Reads the steps' ends. What has no end has failed, and so has all if the script did not come to its own.
pub fn outcome(kernel: &Kernel, steps: &[Step], boot: Boot, time: Duration) -> Outcome {
    let begun = Outcome::of(&kernel.version, &kernel.release);
    let mut outcome = Outcome { ok: boot.is_over, seconds: time.as_secs_f32(), ..begun };
    let mut rest = Some(boot.rest);
    for (index, step) in steps.iter().enumerate() {
        let name = step.name.to_owned();
        let end = boot.steps.iter().find(|(number, ..)| *number == index);
        match end {
            Some((_, 0, lines, _)) => {
                if step.name == PROGRAMS {
                    outcome.verified = verified(&lines.join("\n"));
                }
                outcome.passed.push(name);
            }
            Some((_, _, lines, _)) => {
                outcome.output.insert(name.clone(), lines.clone());
                outcome.failed.push(name);
            }
            None => {
                outcome.output.insert(name.clone(), rest.take().unwrap_or_default());
                outcome.failed.push(name);
            }
        }
    }
    outcome.ok &= outcome.failed.is_empty();
    outcome
}

/// The counts in what `sluice verify -o json` printed.
pub fn verified(text: &str) -> BTreeMap<String, u64> {
    let rows: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
    rows.iter()
        .filter_map(|row| Some((row["program"].as_str()?.to_owned(), row["instructions"].as_u64()?)))
        .collect()
}

/// Prints it for people.
pub fn tell(outcome: &Outcome) {
    for (name, lines) in &outcome.output {
        eprintln!("---- {name}, on {}:", outcome.release);
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            eprintln!("    {line}");
        }
    }
    let sign = if outcome.ok { '✓' } else { '✗' };
    eprintln!("  {sign} kernel {} ({:.1} s)", outcome.release, outcome.seconds);
}

#[cfg(test)]
mod tests {
    use super::{super::guest::STEPS, *};

    fn kernel() -> Kernel {
        Kernel {
            version: "6.1".into(),
            release: "6.1.0-1-cloud-amd64".into(),
            image: "k".into(),
            modules: "m".into(),
        }
    }

    fn ended(codes: &[i32], is_over: bool) -> Outcome {
        let steps = codes
            .iter()
            .enumerate()
            .map(|(index, code)| (index, *code, vec!["word".to_owned()], Duration::ZERO));
        let boot = Boot { booted: true, steps: steps.collect(), rest: vec!["panic".to_owned()], is_over };
        outcome(&kernel(), &STEPS[..2], boot, Duration::ZERO)
    }

    #[test]
    fn only_a_script_that_ends_with_good_steps_is_ok() {
        for (case, codes, is_over, ok, failed) in [
            ("all well", &[0, 0][..], true, true, 0),
            ("a test failed", &[0, 101], true, false, 1),
            ("a panic in the second step", &[0], false, false, 1),
            ("a panic behind the last step", &[0, 0], false, false, 0),
        ] {
            let outcome = ended(codes, is_over);
            assert_eq!((outcome.ok, outcome.failed.len()), (ok, failed), "{case}");
        }
        assert_eq!(ended(&[0], false).output[STEPS[1].name], ["panic"], "the last words are shown");
    }

    #[test]
    fn counts_are_read_and_the_table_has_a_column_for_each_kernel() {
        let counts = verified(r#"[{"program": "early", "instructions": 12, "error": null}]"#);
        assert_eq!(counts, BTreeMap::from([("early".to_owned(), 12)]));
    }
}
