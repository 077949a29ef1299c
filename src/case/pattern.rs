//! Patterns of stage names.

use crate::plan::StageId;
use globset::{Glob, GlobMatcher};
use std::fmt;
use std::str::FromStr;

/// A glob over stage names: `*` is any run of characters, dots included, `?` any one, `[…]` a set,
/// `{a,b}` alternatives.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl Pattern {
    /// Matches every stage.
    pub fn all() -> Self {
        "*".parse().expect("a valid glob")
    }

    /// Whether a stage matches.
    pub fn matches(&self, stage: &StageId) -> bool {
        self.matcher.is_match(stage.as_str())
    }

    /// How much of a name the pattern pins down: its characters that are no wildcards.
    pub fn specificity(&self) -> usize {
        self.text.chars().filter(|c| !"*?[]{}".contains(*c)).count()
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let glob = Glob::new(text).map_err(|e| e.to_string())?;
        Ok(Self {
            text: text.to_owned(),
            matcher: glob.compile_matcher(),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
