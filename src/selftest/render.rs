//! The report, to people and to programs.

use super::{Outcome, SelfTest, Trial};
use crate::diff::Verdict;
use std::fmt::Write;

/// To people.
pub fn text(test: &SelfTest) -> String {
    let mut text = String::new();
    let mut line = |what: String| {
        let _ = writeln!(text, "{what}");
    };
    if test.baseline == Verdict::Fail {
        line(format!(
            "FAIL {}: the model fails without any bug in it; run `parity diff` on it first",
            test.case
        ));
        return text;
    }
    let is_named = |trial: &&Trial| {
        matches!(
            trial.outcome,
            Outcome::Caught {
                named: Some(true),
                ..
            }
        )
    };
    let named = match test.names {
        true => format!(
            "{} of them named",
            test.trials.iter().filter(is_named).count()
        ),
        false => "none is looked for by name: stages are judged over many steps".into(),
    };
    line(format!(
        "{}: {} of {} deliberate bugs are caught, {named}",
        test.case,
        test.caught(),
        test.trials.len(),
    ));
    let width = test
        .trials
        .iter()
        .map(|trial| trial.bug.chars().count())
        .max()
        .unwrap_or(0);
    for trial in &test.trials {
        let what = match &trial.outcome {
            Outcome::Caught { stage, mode, named } => {
                let named = if *named == Some(true) { ", named" } else { "" };
                format!("caught at {stage} ({mode}){named}")
            }
            Outcome::Refused { error } => format!("refused: {error}"),
            Outcome::Passed { changes, recorded } => match (changes, recorded) {
                (Some(changes), Some(recorded)) if changes == recorded => {
                    format!("PASSES: within tolerance at {changes}, which it changes first")
                }
                (Some(changes), Some(recorded)) => format!(
                    "PASSES: within tolerance at {recorded}; record {changes}, which it changes first"
                ),
                (Some(changes), None) => {
                    format!(
                        "PASSES: no recorded stage shows it; record {changes}, which it changes first"
                    )
                }
                (None, _) => "PASSES: it changes no stage".into(),
            },
        };
        line(format!("  {:width$}  {what}", trial.bug));
    }
    if !test.blind_spots.is_empty() {
        line("what this golden cannot see:".into());
    }
    for spot in &test.blind_spots {
        line(format!("  {spot}"));
    }
    text
}

/// To programs.
///
/// # Panics
/// Never: all of it can be written down.
pub fn json(tests: &[SelfTest]) -> String {
    let text = serde_json::to_string_pretty(tests).expect("texts and numbers");
    text + "\n"
}
