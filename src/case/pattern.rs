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
    /// What the braces stand for, each a glob without any.
    alternatives: Vec<Alternative>,
}

#[derive(Clone, Debug)]
struct Alternative {
    matcher: GlobMatcher,
    specificity: Specificity,
}

/// How much of a name a pattern pins down: the more, the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    /// Characters that are no wildcards.
    literal: usize,
    /// Whether all are.
    is_name: bool,
}

/// The longest pattern, in bytes; names of stages are shorter.
const LONGEST: usize = 4096;
/// The most braces in one, nested or not.
const MOST_BRACES: usize = 16;
/// The most alternatives that braces may stand for.
const MOST_ALTERNATIVES: usize = 1000;

impl Pattern {
    /// Matches every stage.
    pub fn all() -> Self {
        "*".parse().expect("a valid glob")
    }

    /// Whether a stage matches.
    pub fn matches(&self, stage: &StageId) -> bool {
        let mut alternatives = self.alternatives.iter();
        alternatives.any(|alternative| alternative.matcher.is_match(stage.as_str()))
    }

    /// How much of a stage's name the pattern pins down. Of alternatives those count that match it: what
    /// else stands between braces says nothing of this stage.
    pub fn specificity(&self, stage: &StageId) -> Specificity {
        let alternatives = self.alternatives.iter();
        let matching =
            alternatives.filter(|alternative| alternative.matcher.is_match(stage.as_str()));
        matching
            .map(|alternative| alternative.specificity)
            .max()
            .unwrap_or_default()
    }
}

impl Specificity {
    /// Of a glob without braces.
    fn of(glob: &str) -> Self {
        let (mut literal, mut is_name, mut in_set) = (0, true, false);
        for c in glob.chars() {
            match c {
                '[' => (in_set, is_name) = (true, false),
                ']' => in_set = false,
                '*' | '?' => is_name = false,
                _ => literal += usize::from(!in_set),
            }
        }
        Self { literal, is_name }
    }
}

/// A glob once for everything that its braces may stand for; nothing if that is too much. Braces within a
/// set are characters.
fn expanded(glob: &str) -> Option<Vec<String>> {
    let Some((start, end, commas)) = first_braces(glob) else {
        return Some(vec![glob.to_owned()]);
    };
    let (before, after) = (&glob[..start], &glob[end + 1..]);
    let starts = std::iter::once(start).chain(commas.iter().copied());
    let ends = commas.iter().copied().chain([end]);
    let mut all = Vec::new();
    for (start, end) in starts.zip(ends) {
        let inner = &glob[start + 1..end];
        if inner.is_empty() {
            // As globset has it: nothing is no alternative.
            continue;
        }
        all.extend(expanded(&format!("{before}{inner}{after}"))?);
        if all.len() > MOST_ALTERNATIVES {
            return None;
        }
    }
    Some(all)
}

/// Where the first braces open and close, and the commas between that belong to them.
fn first_braces(glob: &str) -> Option<(usize, usize, Vec<usize>)> {
    let (mut start, mut depth, mut commas, mut in_set) = (None, 0, Vec::new(), false);
    for (place, c) in glob.char_indices() {
        match c {
            '[' => in_set = true,
            ']' => in_set = false,
            _ if in_set => {}
            '{' => {
                depth += 1;
                start.get_or_insert(place);
            }
            ',' if depth == 1 => commas.push(place),
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some((start?, place, commas));
                }
            }
            _ => {}
        }
    }
    None
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!(
                "a pattern of {} bytes, where {LONGEST} are allowed",
                text.len()
            ));
        }
        let braces = text.bytes().filter(|byte| *byte == b'{').count();
        if braces > MOST_BRACES {
            return Err(format!("{braces} braces, where {MOST_BRACES} are allowed"));
        }
        let glob = |text: &str| Glob::new(text).map_err(|e| e.to_string());
        glob(text)?;
        let alternatives = expanded(text).ok_or_else(|| {
            format!("braces stand for more than {MOST_ALTERNATIVES} alternatives")
        })?;
        let alternatives = alternatives.iter().map(|alternative| {
            Ok::<_, String>(Alternative {
                matcher: glob(alternative)?.compile_matcher(),
                specificity: Specificity::of(alternative),
            })
        });
        Ok(Self {
            text: text.to_owned(),
            alternatives: alternatives.collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn specificity(pattern: &str, stage: &str) -> Specificity {
        pattern
            .parse::<Pattern>()
            .unwrap()
            .specificity(&stage.into())
    }

    #[test]
    fn what_cannot_match_pins_nothing_down() {
        let stage = "h.0";
        let ranked = [
            "*",
            "{h.0.mlp.dense_h_to_4h,h.*}",
            "h.[0123456789]",
            "h.0*",
            "h.0",
        ];
        for pair in ranked.windows(2) {
            let [less, more] = [0, 1].map(|place| specificity(pair[place], stage));
            assert!(less <= more, "{pair:?}");
        }
        assert!(specificity("{h.0.mlp.dense_h_to_4h,h.*}", stage) < specificity("h.0", stage));
        assert_eq!(specificity("ln_f", stage), Specificity::default());
        assert!(
            "{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}"
                .parse::<Pattern>()
                .is_err()
        );
    }

    proptest! {
        /// Alternatives match what the glob with its braces matches, and a name outranks every pattern.
        #[test]
        fn braces_are_alternatives(
            parts in prop::collection::vec("[ab*?]{0,3}|\\{[ab*]{0,2},[ab]{1,2}\\}", 1..4),
            name in "[ab]{0,6}",
        ) {
            let text = parts.concat();
            prop_assume!(Glob::new(&text).is_ok());
            let pattern: Pattern = text.parse().unwrap();
            let whole = Glob::new(&text).unwrap().compile_matcher();
            let stage = StageId::from(name.as_str());
            prop_assert_eq!(pattern.matches(&stage), whole.is_match(&name));
            prop_assert!(pattern.specificity(&stage) <= specificity(&name, &name));
        }
    }
}
