//! Load for a while, by programs that we did not write, and what they say of it: wrk for HTTP/1.1, h2load for HTTP/2.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use super::Speech;
use crate::world::{Pod, tool_path};

const SECONDS: u32 = 3;
/// Requests at once on each connection of HTTP/2.
const STREAMS: u32 = 10;

/// What one load brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Answers.
    pub requests: f64,
    /// Of them in a second.
    pub per_second: f64,
    /// Half of them took less, µs.
    pub p50_us: f64,
    /// And of a hundred, 99.
    pub p99_us: f64,
    /// And of a thousand, 999; wrk does not tell.
    pub p999_us: f64,
}

/// Loads `url` with wrk.
pub fn wrk(pod: &Pod, url: &str, connections: u32) -> Result<Load> {
    let mut command = pod.command(&tool_path("wrk"));
    let duration = format!("{SECONDS}s");
    command.args(["-t", "1", "-c", &connections.to_string(), "-d", &duration, "--latency", url]);
    let output = command.output().context("wrk does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let word = |line: &str, index: usize| line.split_whitespace().nth(index).map(str::to_owned);
    let mut load = Load::default();
    for line in text.lines() {
        let first = word(line, 0).unwrap_or_default();
        match first.as_str() {
            "50%" => load.p50_us = micros(&word(line, 1).unwrap_or_default()),
            "99%" => load.p99_us = micros(&word(line, 1).unwrap_or_default()),
            "Requests/sec:" => {
                load.per_second = word(line, 1).and_then(|word| word.parse().ok()).unwrap_or(0.0)
            }
            "Non-2xx" | "Socket" => bail!("{url}: {}", line.trim()),
            _ if line.contains(" requests in ") => load.requests = first.parse().unwrap_or(0.0),
            _ => {}
        }
    }
    if load.requests < 1.0 {
        bail!("{url}: wrk says {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(load)
}

/// How h2load asks.
#[derive(Clone, Copy)]
pub enum Pace {
    /// HTTP/2, as fast as answers come.
    Full,
    /// By this protocol, so many requests in a second altogether.
    Of(Speech, f64),
}

/// Loads `url` with h2load, which writes each request's time into a file; `place` is a folder for that.
pub fn h2load(pod: &Pod, url: &str, connections: u32, pace: Pace, place: &Path) -> Result<Load> {
    let times = place.join("h2load.times");
    let _not_there = fs::remove_file(&times);
    let mut command = pod.command(&tool_path("h2load"));
    let duration = SECONDS.to_string();
    command.args(["-t", "1", "-c", &connections.to_string(), "-D", &duration]);
    match pace {
        Pace::Of(Speech::Http1, _) => drop(command.args(["--h1", "-m", "1"])),
        Pace::Of(Speech::Http2, _) | Pace::Full => drop(command.args(["-m", &STREAMS.to_string()])),
    }
    if let Pace::Of(_, per_second) = pace {
        command.arg(format!("--rps={:.1}", per_second / f64::from(connections)));
    }
    let output = command.arg("--log-file").arg(&times).arg(url).output().context("h2load does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    let before = |line: &str, word: &str| -> f64 {
        let head = line.split(word).next().unwrap_or_default();
        head.split_whitespace().next_back().and_then(|number| number.parse().ok()).unwrap_or(0.0)
    };
    let (requests, codes) = (line("requests:"), line("status codes:"));
    let wrong = before(requests, " failed,") + before(requests, " errored,") + before(requests, " timeout");
    let others = before(codes, " 3xx,") + before(codes, " 4xx,") + before(codes, " 5xx");
    if before(requests, " succeeded,") < 1.0 || wrong + others > 0.0 {
        bail!("{url}: h2load says {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    let lines = fs::read_to_string(&times).context("h2load wrote no times")?;
    let mut took: Vec<f64> =
        lines.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse().ok()).collect();
    took.sort_by(f64::total_cmp);
    let at = |per_mille: usize| took.get(took.len() * per_mille / 1000).copied().unwrap_or(0.0);
    let requests = before(requests, " succeeded,");
    Ok(Load {
        requests,
        per_second: requests / f64::from(SECONDS),
        p50_us: at(500),
        p99_us: at(990),
        p999_us: at(999),
    })
}

/// `87.00us`, `1.20ms` or `1.2s` in µs.
fn micros(text: &str) -> f64 {
    let number = text.trim_end_matches(char::is_alphabetic).parse().unwrap_or(0.0);
    match text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.') {
        "us" => number,
        "ms" => number * 1e3,
        _ => number * 1e6,
    }
}
