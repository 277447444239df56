//! Texts of others, kept short.

/// Bytes of a path or a text that is kept of what is wrong with an object: whoever writes the object writes parts of them.
const LONGEST: usize = 512;

/// Cuts `text` where it is too long to be kept.
pub fn shorten(text: &mut String) {
    if text.len() <= LONGEST {
        return;
    }
    let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text.push('…');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_letters() {
        for (case, text, want) in [
            ("fits", "a".repeat(LONGEST), "a".repeat(LONGEST)),
            ("one too many", "a".repeat(LONGEST + 1), "a".repeat(LONGEST) + "…"),
            ("in a letter", "aé".repeat(LONGEST), "aé".repeat(LONGEST / 3) + "a…"),
        ] {
            let mut got = text;
            shorten(&mut got);
            assert_eq!(got, want, "{case}");
        }
    }
}
