//! What came of it: for people, and as JSON.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::{
    archive::Kernel,
    guest::{PROGRAMS, Step},
    machine::Boot,
};
use crate::test::tally::Tally;

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
            Some((_, code, lines, _)) => match shown(step, *code, lines) {
                Ok(counts) => {
                    outcome.verified.extend(counts);
                    outcome.passed.push(name);
                }
                Err(error) => {
                    let lines = lines.iter().cloned().chain([format!("{error:#}")]);
                    outcome.output.insert(name.clone(), lines.collect());
                    outcome.failed.push(name);
                }
            },
            None => {
                outcome.output.insert(name.clone(), rest.take().unwrap_or_default());
                outcome.failed.push(name);
            }
        }
    }
    outcome.ok &= outcome.failed.is_empty();
    outcome
}

/// The counts that a step has shown, if it is one that counts. An error is why it has shown nothing: its exit code alone is no
/// word, for a runner of tests that finds none of that name ends with 0 too.
pub fn shown(step: &Step, code: i32, lines: &[String]) -> Result<BTreeMap<String, u64>> {
    let text = lines.join("\n");
    if code != 0 {
        bail!("it ended with {code}");
    }
    if step.name == PROGRAMS {
        return verified(&text);
    }
    if let Some((file, test)) = step.test {
        let passed = Tally::of(file, &text, true).passed();
        if passed != 1 {
            bail!("{passed} tests passed where one was wanted: see whether {file} still has a test {test}");
        }
    }
    Ok(BTreeMap::new())
}

/// What `sluice verify` says of a program.
type Row = serde_json::Map<String, Value>;

/// The counts in what `sluice verify -o json` printed, warnings before and behind it or not. None is an error.
pub fn verified(text: &str) -> Result<BTreeMap<String, u64>> {
    let begins = text.match_indices('[').map(|(at, _)| at);
    let begins = begins.filter(|at| *at == 0 || text[..*at].ends_with('\n'));
    let rows =
        |at: usize| serde_json::Deserializer::from_str(&text[at..]).into_iter::<Vec<Row>>().next()?.ok();
    let rows = begins.filter_map(rows).next();
    let rows = rows.with_context(|| format!("`sluice verify -o json` printed no JSON: {text}"))?;
    let count = |row: &Row| {
        let count = Some((row.get("program")?.as_str()?.to_owned(), row.get("instructions")?.as_u64()?));
        count.filter(|(_, instructions)| *instructions > 0)
    };
    let counts = rows
        .iter()
        .map(|row| count(row).with_context(|| format!("no count of verified instructions in {row:?}")));
    let counts: BTreeMap<_, _> = counts.collect::<Result<_>>()?;
    if counts.is_empty() {
        bail!("`sluice verify -o json` counted no program");
    }
    Ok(counts)
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

    const COUNTS: &str = r#"[{"program": "early", "instructions": 12, "error": null}]"#;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn ended(codes: &[i32], is_over: bool) -> Outcome {
        let printed = [COUNTS, "test result: ok. 1 passed; 0 failed"];
        let steps = codes.iter().zip(printed).enumerate();
        let steps = steps.map(|(index, (code, text))| (index, *code, lines(text), Duration::ZERO));
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
        assert_eq!(ended(&[0, 0], true).verified["early"], 12);
    }

    #[test]
    fn a_step_that_ends_with_0_has_shown_something_only_if_its_one_test_passed() {
        for (case, code, text, want) in [
            (
                "one",
                0,
                "running 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored",
                true,
            ),
            ("behind half a line", 0, "[ 1.2] usb test result: ok. 1 passed; 0 failed; 0 ignored", true),
            ("renamed", 0, "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 40 filtered out", false),
            ("ignored", 0, "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured", false),
            ("two", 0, "test result: ok. 2 passed; 0 failed; 0 ignored", false),
            ("nothing was printed", 0, "", false),
            ("it passed, and its process did not end well", 139, "test result: ok. 1 passed", false),
        ] {
            assert_eq!(shown(&STEPS[1], code, &lines(text)).is_ok(), want, "{case}");
        }
        let refused = Step { name: "refused", test: None };
        assert!(shown(&refused, 0, &[]).is_ok() && shown(&refused, 1, &[]).is_err());
    }

    #[test]
    fn counts_are_read_and_none_is_an_error() {
        let want = BTreeMap::from([("early".to_owned(), 12)]);
        for (case, text) in [
            ("alone", COUNTS.to_owned()),
            ("between warnings", format!("WARN a\n[ 1.2] [odd]\n{COUNTS}\nWARN b")),
            ("over several lines", COUNTS.replace([' '], "\n")),
        ] {
            assert_eq!(verified(&text).unwrap(), want, "{case}");
        }
        for (case, text) in [
            ("nothing", ""),
            ("words", "cannot load"),
            ("cut short", &COUNTS[..20]),
            ("no program", "[]"),
            ("refused", r#"[{"program": "early", "instructions": null, "error": "EINVAL"}]"#),
            ("no count", r#"[{"program": "early", "instructions": 0}]"#),
            ("another shape", r#"[{"name": "early", "count": 12}]"#),
        ] {
            assert!(verified(text).is_err(), "{case}");
            assert!(shown(&STEPS[0], 0, &lines(text)).is_err(), "{case}");
        }
    }
}
