//! Texts without what a terminal would obey, and without lines that look like ours: names and messages come from outside.

/// Whether a terminal would obey it: controls of both kinds, and what turns the order of text around. Ends of lines are
/// another matter.
fn is_obeyed(c: char) -> bool {
    let turns_around = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    // The others that end a line for some programs.
    let ends_line = ['\u{2028}', '\u{2029}'].contains(&c);
    (c.is_control() && c != '\n') || turns_around || ends_line
}

fn replaced(text: &str, escape: impl Fn(char) -> String) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) { shown += &escape(c) } else { shown.push(c) }
    }
    shown
}

/// Whether there is nothing to replace.
pub fn is_harmless(text: &str) -> bool {
    !text.contains(is_obeyed)
}

/// Lines of ours, in which each name and message is a [`line`].
pub fn lines(text: &str) -> String {
    replaced(text, |c| c.escape_unicode().to_string())
}

/// A name or message in one line, whatever it has.
pub fn line(text: &str) -> String {
    lines(text).replace('\n', "\\n")
}

/// A message that may have many lines, such as the verifier's, of which none but the first looks like one of ours.
pub fn message(text: &str) -> String {
    text.trim_end().lines().map(line).collect::<Vec<_>>().join("\n  | ")
}

/// A JSON document, which says the same as before: there such characters stand in strings alone, which know escapes for all
/// of them, and have them for ends of lines already.
pub fn json(text: &str) -> String {
    replaced(text, |c| format!("\\u{:04x}", u32::from(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left_and_no_line_is_forged() {
        let text = "a\u{1b}[31mred\r\u{7}\u{9b}2J \u{202e}txt\nß\u{2028}";
        let shown = "a\\u{1b}[31mred\\u{d}\\u{7}\\u{9b}2J \\u{202e}txt\nß\\u{2028}";
        assert_eq!(lines(text), shown);
        assert_eq!(line(text), shown.replace('\n', "\\n"));
        assert_eq!(message("one\nerror: \u{7}\r\n\n"), "one\n  | error: \\u{7}");
    }
}
