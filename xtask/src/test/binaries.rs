//! The binaries of tests: which there are, and how they are run. Several at a time, for most of a world's time is waiting; what
//! one prints is shown when it ends.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::tally::Tally;
use crate::shell::{cargo, workspace};

/// How many run at a time; each has as many threads as there are CPUs.
const AT_ONCE: usize = 2;
/// Begun first, so that none of them is left alone at the end.
const LONG: [&str; 4] = ["packets", "flows", "outside_faults", "packet_vectors"];
/// None takes as long as this.
const LONGEST: Duration = Duration::from_secs(1_200);

/// One file of tests, compiled.
#[derive(Debug)]
pub struct Binary {
    /// Its target's name.
    pub name: String,
    /// Its source, relative to its package.
    pub source: String,
    /// Where it is.
    pub file: PathBuf,
    /// Its package, in which it runs.
    pub folder: PathBuf,
}

/// Compiles all tests; in the order in which they are best run.
pub fn build() -> Result<Vec<Binary>> {
    let output = cargo()
        .current_dir(workspace())
        .args(["test", "--workspace", "--exclude", "sluice-ebpf", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let mut binaries: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().filter_map(binary).collect();
    binaries.sort_by_key(|binary: &Binary| (!LONG.contains(&binary.name.as_str()), binary.source.clone()));
    Ok(binaries)
}

fn binary(line: &str) -> Option<Binary> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    if value["profile"]["test"] != true {
        return None;
    }
    let folder = Path::new(value["manifest_path"].as_str()?).parent()?.to_owned();
    let source = Path::new(value["target"]["src_path"].as_str()?);
    Some(Binary {
        name: value["target"]["name"].as_str()?.to_owned(),
        source: source.strip_prefix(&folder).unwrap_or(source).display().to_string(),
        file: PathBuf::from(value["executable"].as_str()?),
        folder,
    })
}

/// Runs them; `words` are parts of names of tests or files. An error is something that kept us from trying.
pub fn run(binaries: &[Binary], words: &[String], prepare: impl Fn(&mut Command) + Sync) -> Result<Tally> {
    let logs = workspace().join("target/tests");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let work = || -> Result<()> {
        while let Some(binary) = binaries.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = Instant::now();
            let (text, is_well) = run_one(binary, words, &logs, &prepare)?;
            let tally = Tally::of(&binary.source, &text, is_well);
            // Whose tests are all left out has nothing to say.
            if tally.ran() {
                // Whole, for another one may end at this moment.
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                println!("     Running {} ({:.0} s)\n{text}", binary.source, start.elapsed().as_secs_f32());
                all.add(tally);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a thread that runs tests panicked"),
        })
    })?;
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What it printed, and whether it ended well.
fn run_one(
    binary: &Binary,
    words: &[String],
    logs: &Path,
    prepare: &impl Fn(&mut Command),
) -> Result<(String, bool)> {
    let name = binary.file.file_name().unwrap_or_default();
    let path = logs.join(name).with_extension("log");
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(&binary.file);
    command.current_dir(&binary.folder).env("CARGO_MANIFEST_DIR", &binary.folder);
    if !words.iter().any(|word| binary.source.contains(word.as_str())) {
        command.args(words);
    }
    prepare(&mut command);
    command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.file.display()))?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status.to_string();
        }
        if start.elapsed() > LONGEST {
            child.kill()?;
            child.wait()?;
            break format!("killed, for it took longer than {} s", LONGEST.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    };
    let mut text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
    let is_well = status == "exit status: 0";
    if !is_well {
        text += &format!("\n{}: {status}\n", binary.source);
    }
    Ok((text, is_well))
}
