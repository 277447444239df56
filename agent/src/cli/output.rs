//! Tables for people; JSON and YAML for scripts, with the same keys.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use serde::Serialize;

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

/// Prints `value` as `format` asks; `table` is what a person gets.
pub fn print(format: Format, value: &impl Serialize, table: impl FnOnce() -> String) -> Result<()> {
    let text = match format {
        Format::Table => harmless(&table()),
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        Format::Yaml => serde_saphyr::to_string(value).context("cannot write YAML")?,
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Without what a terminal would obey: names and messages come from outside.
pub fn harmless(text: &str) -> String {
    let obeyed = |c: &char| {
        let turns_around =
            matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        (c.is_control() && *c != '\n') || turns_around
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(&c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// Columns under headings, as wide as their widest cell.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(headings);
    for row in rows {
        text += &line(std::array::from_fn(|index| row[index].as_str()));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_that_a_terminal_obeys_is_printed() {
        let shown = super::harmless("a\u{1b}[31mred\r\u{7}\u{9b}2J \u{202e}txt\nß");
        assert_eq!(shown, "a\\u{1b}[31mred\\u{d}\\u{7}\\u{9b}2J \\u{202e}txt\nß");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "long cell".to_owned()], ["größer".to_owned(), String::new()]];
        assert_eq!(super::table(["X", "Y"], &rows), "X       Y\na       long cell\ngrößer\n");
    }
}
