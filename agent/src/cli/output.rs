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
        Format::Json => in_json(&serde_json::to_string_pretty(value)?) + "\n",
        Format::Yaml => yaml(value)?,
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Whether a terminal would obey it: controls of both kinds, and what turns the order of text around.
fn is_obeyed(c: char) -> bool {
    let turns_around = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    (c.is_control() && c != '\n') || turns_around
}

fn replaced(text: &str, escape: impl Fn(char) -> String) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) { shown += &escape(c) } else { shown.push(c) }
    }
    shown
}

/// Without what a terminal would obey: names and messages come from outside.
pub fn harmless(text: &str) -> String {
    replaced(text, |c| c.escape_unicode().to_string())
}

/// The same of a JSON document, which says the same as before: there such characters stand in strings alone, which know
/// escapes for all of them.
pub fn in_json(text: &str) -> String {
    replaced(text, |c| format!("\\u{:04x}", u32::from(c)))
}

/// `value` as YAML without what a terminal would obey.
///
/// # Errors
/// None that is known.
pub fn yaml(value: &impl Serialize) -> Result<String> {
    let text = serde_saphyr::to_string(value).context("cannot write YAML")?;
    if !text.contains(is_obeyed) {
        return Ok(text);
    }
    // Not all of YAML's strings know escapes. Those of JSON do, and JSON is YAML.
    Ok(in_json(&serde_json::to_string_pretty(value)?) + "\n")
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
    fn documents_say_the_same_without_what_a_terminal_obeys() {
        let value = serde_json::json!({"name": "a\u{1b}[31m\u{7f}\u{9b}2J\u{202e}txt\u{2066}ß\n\"\\"});
        for text in [super::in_json(&value.to_string()), super::yaml(&value).unwrap()] {
            assert!(!text.contains(super::is_obeyed), "{text:?}");
            assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&text).unwrap(), value, "{text}");
        }
        assert_eq!(super::yaml(&serde_json::json!({"name": "ß"})).unwrap().trim(), "name: ß");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "long cell".to_owned()], ["größer".to_owned(), String::new()]];
        assert_eq!(super::table(["X", "Y"], &rows), "X       Y\na       long cell\ngrößer\n");
    }
}
