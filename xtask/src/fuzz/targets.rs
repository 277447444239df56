//! The targets of `fuzz/`, under libFuzzer: built with counters in our own crates, run for a while each, as many at a time as there
//! are CPUs.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::Args;
use crate::{
    build,
    setup::Toolchain,
    shell::{cargo, on_path, run as run_command, workspace},
};

/// Bytes of the longest input, by target: what is long enough for all that it can say.
const LONGEST: [(&str, u32); 4] =
    [("heads", 600), ("packets", 400), ("rules", 4_000), ("server_name", 1_000)];
/// Seconds after which an input counts as one that hangs.
const SLOWEST_S: u32 = 10;

/// Runs the targets that were named, or all; says of each that fails with which input.
pub fn run(toolchain: &Toolchain, args: &Args, seed: u64) -> Result<()> {
    let chosen = chosen(&args.names)?;
    let binary = built(toolchain)?;
    if let Some(input) = &args.input {
        let [(name, _)] = chosen[..] else { bail!("--input is for one target") };
        return run_command(Command::new(binary).arg(input).env("SLUICE_FUZZ", name));
    }
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let run = |&(name, longest): &(&str, u32)| one(&binary, name, longest, args.seconds, seed);
    let outcomes = chosen.chunks(at_once).flat_map(|some| {
        thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|target| scope.spawn(move || run(target))).collect();
            threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
        })
    });
    let fails = |outcome: thread::Result<Result<()>>| match outcome {
        Ok(outcome) => outcome.err().map(|error| format!("{error:#}")),
        Err(_) => Some("a thread that runs a target panicked".to_owned()),
    };
    let failed: Vec<String> = outcomes.filter_map(fails).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<(&'static str, u32)>> {
    let known = LONGEST.map(|(name, _)| name);
    let unknown = names.iter().find(|name| !known.contains(&name.as_str()));
    ensure!(unknown.is_none(), "{unknown:?} is no target; there are {}", known.join(", "));
    let wanted = |(name, _): &(&str, u32)| names.is_empty() || names.iter().any(|other| other == name);
    Ok(LONGEST.into_iter().filter(wanted).collect())
}

/// The program with all targets. What is below our crates is shared with the other builds.
fn built(toolchain: &Toolchain) -> Result<PathBuf> {
    let compiler = std::env::var_os("CXX").is_some() || on_path("c++").is_some();
    ensure!(compiler, "c++ is missing, which compiles libFuzzer: install g++ (Debian: apt-get install g++)");
    build::ebpf(toolchain)?;
    let start = Instant::now();
    run_command(
        cargo()
            .current_dir(workspace())
            .args(["build", "--quiet", "--package", "sluice-fuzz", "--features", "engine"])
            .env("RUSTC_WORKSPACE_WRAPPER", workspace().join("fuzz/instrumented")),
    )?;
    eprintln!("built with counters in {:.0} s", start.elapsed().as_secs_f32());
    Ok(workspace().join("target/debug/sluice-fuzz"))
}

/// What is found is kept below `target/fuzz`, so that the next run begins there.
fn one(binary: &Path, name: &str, longest: u32, seconds: u32, seed: u64) -> Result<()> {
    let folder = workspace().join("target/fuzz").join(name);
    let corpus = folder.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let log = folder.join("log");
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let option = |name: &str, value: &dyn std::fmt::Display| format!("-{name}={value}");
    let status = Command::new(binary)
        .env("SLUICE_FUZZ", name)
        .arg(&corpus)
        .arg(workspace().join("fuzz/corpus").join(name))
        .arg(option("dict", &workspace().join("fuzz/dictionaries").join(name).display()))
        .arg(format!("-artifact_prefix={}/", folder.display()))
        .arg(option("max_total_time", &seconds))
        .arg(option("max_len", &longest))
        .arg(option("timeout", &SLOWEST_S))
        .arg(option("seed", &(seed % u64::from(u32::MAX)).max(1)))
        .arg("-print_final_stats=1")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if status.success() {
        eprintln!("{name}: {}, seed {seed}", summary(&text));
        return Ok(());
    }
    let end: Vec<&str> = text.lines().rev().take(40).collect();
    end.iter().rev().for_each(|line| eprintln!("    {line}"));
    let input = text.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, file)| file));
    match input {
        Some(input) => {
            bail!("{name} fails, seed {seed}; once more: cargo xtask fuzz --targets {name} --input {input}")
        }
        None => bail!("{name} ended with {status}, seed {seed}; see {}", log.display()),
    }
}

/// Executions, edges that were gone, inputs that go their own ways.
fn summary(log: &str) -> String {
    let after = |line: &str, word: &str| {
        let rest = line.split_once(word)?.1;
        rest.split_whitespace().next().map(str::to_owned)
    };
    let last =
        |word: &str| log.lines().rev().find_map(|line| after(line, word)).unwrap_or_else(|| "?".to_owned());
    format!(
        "{} executions, {} edges, {} inputs, no failure",
        last("stat::number_of_executed_units:"),
        last(" cov: "),
        last(" corp: ").split('/').next().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_told_in_a_line() {
        let log = "#2\tINITED cov: 20 ft: 21 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #91\tDONE   cov: 25 ft: 26 corp: 7/31b lim: 4 exec/s: 45 rss: 30Mb\nstat::number_of_executed_units: 91\n";
        assert_eq!(summary(log), "91 executions, 25 edges, 7 inputs, no failure");
        assert!(summary("").starts_with("? executions"));
    }

    #[test]
    fn every_target_has_inputs_to_begin_with_and_words() {
        let names = |folder: &str| {
            let entries = fs::read_dir(workspace().join("fuzz").join(folder)).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let known = LONGEST.map(|(name, _)| name.to_owned()).to_vec();
        assert_eq!((names("corpus"), names("dictionaries")), (known.clone(), known));
    }
}
