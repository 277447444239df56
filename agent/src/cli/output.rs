//! Tables for people; JSON and YAML for scripts, with the same keys.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::harmless;

/// `-o`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// Prints `value` as `format` asks; `table` is what a person gets: lines of ours, in which texts from outside are one [`harmless::line`]
/// each.
pub fn print(format: Format, value: &impl Serialize, table: impl FnOnce() -> String) -> Result<()> {
    let text = match format {
        Format::Table => harmless::lines(&table()),
        Format::Json => harmless::json(&serde_json::to_string_pretty(value)?) + "\n",
        Format::Yaml => yaml(value)?,
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// `value` as YAML without what a terminal would obey.
///
/// # Errors
/// None that is known.
pub fn yaml(value: &impl Serialize) -> Result<String> {
    let text = serde_saphyr::to_string(value).context("cannot write YAML")?;
    if harmless::is_harmless(&text) {
        return Ok(text);
    }
    // Not all of YAML's strings know escapes. Those of JSON do, and JSON is YAML.
    Ok(harmless::json(&serde_json::to_string_pretty(value)?) + "\n")
}

/// Columns under headings, as wide as their widest cell. A cell is one line.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| harmless::line(cell))).collect();
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(headings);
    for row in &rows {
        text += &line(std::array::from_fn(|index| row[index].as_str()));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn documents_say_the_same_without_what_a_terminal_obeys() {
        let value = serde_json::json!({"name": "a\u{1b}[31m\u{7f}\u{9b}2J\u{202e}txt\u{2066}ß\n\"\\"});
        for text in [crate::harmless::json(&value.to_string()), super::yaml(&value).unwrap()] {
            assert!(crate::harmless::is_harmless(&text), "{text:?}");
            assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&text).unwrap(), value, "{text}");
        }
        assert_eq!(super::yaml(&serde_json::json!({"name": "ß"})).unwrap().trim(), "name: ß");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "long cell".to_owned()], ["größer".to_owned(), String::new()]];
        assert_eq!(super::table(["X", "Y"], &rows), "X       Y\na       long cell\ngrößer\n");
        let rows = [["a\nb  c".to_owned(), "d".to_owned()]];
        assert_eq!(super::table(["X", "Y"], &rows), "X        Y\na\\nb  c  d\n", "no cell makes a line");
    }
}
