//! The demo's table.

use std::{collections::BTreeSet, net::IpAddr};

use super::Row;

/// What each pod took the client for: one address, or one for each pod.
fn clients(row: &Row) -> String {
    let texts = |seen: &BTreeSet<IpAddr>| seen.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
    let distinct: BTreeSet<String> = row.outcome.seen.values().map(texts).collect();
    if distinct.len() < 2 {
        return distinct.into_iter().collect();
    }
    let each = row.outcome.seen.iter().map(|(pod, seen)| format!("{pod}: {}", texts(seen)));
    each.collect::<Vec<_>>().join(", ")
}

fn answers(row: &Row) -> String {
    let answers: Vec<String> =
        row.outcome.answers.iter().map(|(pod, count)| format!("{pod} ×{count}")).collect();
    if answers.is_empty() { "nobody".to_owned() } else { answers.join(", ") }
}

fn ok(row: &Row) -> String {
    if row.ok { "ok".to_owned() } else { "FAILED".to_owned() }
}

/// Columns under headings, and a closing line: what clients inside met.
pub fn render(rows: &[Row]) -> String {
    let headings = ["WHAT", "FROM", "DIALLED", "ANSWERED BY", "PEER SEEN", "EXPLAIN", "PATH", "OK"];
    let line = |row: &Row| {
        [
            row.name.clone(),
            row.from.to_owned(),
            row.dialled.clone(),
            answers(row),
            row.outcome.peer(),
            row.verdict.clone(),
            row.path.clone(),
            ok(row),
        ]
    };
    columns(headings, rows, line)
}

/// The same of clients outside, with what the pods saw of them.
pub fn render_outside(rows: &[Row]) -> String {
    let headings = ["WHAT, FROM OUTSIDE", "DIALLED", "ANSWERED BY", "PEER SEEN", "CLIENT SEEN", "OK"];
    let line = |row: &Row| {
        [row.name.clone(), row.dialled.clone(), answers(row), row.outcome.peer(), clients(row), ok(row)]
    };
    columns(headings, rows, line)
}

fn columns<const N: usize>(headings: [&str; N], rows: &[Row], line: impl Fn(&Row) -> [String; N]) -> String {
    let lines: Vec<[String; N]> =
        std::iter::once(headings.map(str::to_owned)).chain(rows.iter().map(line)).collect();
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    let failed = rows.iter().filter(|row| !row.ok).count();
    text + &format!("{} rows, {failed} failed\n", rows.len())
}
