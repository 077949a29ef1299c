//! Words from files, as they may be printed: on one line, and no longer than a reader reads.

use std::fmt::{self, Write};

/// Longest name printed, in characters.
pub(crate) const NAME: usize = 300;
/// Longest sentence printed.
pub(crate) const SENTENCE: usize = 4000;

/// A text as it is printed: what would break a line, move the cursor or turn the direction of writing is escaped, and
/// what is beyond so many characters cut, with how many there are.
pub(crate) struct Shown<'a> {
    text: &'a str,
    most: usize,
}

/// A name.
pub(crate) fn name(text: &str) -> Shown<'_> {
    Shown { text, most: NAME }
}

/// A sentence, in which there may be names.
pub(crate) fn sentence(text: &str) -> Shown<'_> {
    Shown {
        text,
        most: SENTENCE,
    }
}

/// Whether a character does something else than to stand where it is: controls, line and paragraph separators, marks
/// of direction, and what has no width.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.text.char_indices().nth(self.most);
        let (shown, rest) = self
            .text
            .split_at(most.map_or(self.text.len(), |(place, _)| place));
        if rest.is_empty() && !shown.contains(is_active) {
            return f.pad(shown);
        }
        for c in shown.chars() {
            if is_active(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        match rest.chars().count() {
            0 => Ok(()),
            more => write!(f, "… ({more} more characters)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_stay_on_their_line() {
        assert_eq!(name("h.0.mlp → ä").to_string(), "h.0.mlp → ä");
        assert_eq!(
            name("x\npass \u{1b}[2J\u{202e}").to_string(),
            "x\\npass \\u{1b}[2J\\u{202e}"
        );
        let long = "a".repeat(NAME + 5);
        let shown = name(&long).to_string();
        assert!(shown.ends_with("aa… (5 more characters)"), "{shown}");
        assert_eq!(format!("{:<4}|", name("ab")), "ab  |");
    }

    proptest! {
        #[test]
        fn nothing_shown_is_active_or_long(text in "\\PC*|.*|(\n|\r|\u{2028}|a){0,700}") {
            let shown = name(&text).to_string();
            prop_assert!(!shown.contains(is_active));
            prop_assert!(shown.chars().count() <= 10 * NAME + 40);
        }
    }
}
