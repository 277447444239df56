//! The demo's table.

use super::Row;

/// Columns under headings, and a closing line.
pub fn render(rows: &[Row]) -> String {
    let headings =
        ["WHAT", "FROM", "DIALLED", "ANSWERED BY", "PEER SEEN", "EXPLAIN", "PATH", "OK"].map(str::to_owned);
    let mut lines = vec![headings];
    for row in rows {
        let answers: Vec<String> =
            row.outcome.answers.iter().map(|(pod, count)| format!("{pod} ×{count}")).collect();
        let answers = if answers.is_empty() { "nobody".to_owned() } else { answers.join(", ") };
        lines.push([
            row.name.clone(),
            row.from.to_owned(),
            row.dialled.clone(),
            answers,
            row.outcome.peer(),
            row.verdict.clone(),
            row.path.clone(),
            if row.ok { "ok".to_owned() } else { "FAILED".to_owned() },
        ]);
    }
    let mut widths = [0; 8];
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
