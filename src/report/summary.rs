//! The sentences that lead a report.

use crate::case::Mode;
use crate::compare::{Bound, BoundCheck};
use crate::diff::{CaseOutcome, OracleErrors, StageResult, Verdict};
use crate::error::listed;
use crate::explain::{Evidence, Explanation};
use crate::plan::StageId;
use std::fmt;

/// The verdict on all cases together.
pub fn overall(outcomes: &[CaseOutcome]) -> Verdict {
    let failed = outcomes.iter().any(|case| case.verdict() == Verdict::Fail);
    if failed { Verdict::Fail } else { Verdict::Pass }
}

/// Why a stage fails: `rel 3.1e-3 where 2e-6 is allowed (built-in, fp32 isolated); worst at …`.
pub fn describe_failure(result: &StageResult) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let not_finite = &result.metrics.non_finite;
    if not_finite.disagreements > 0 {
        reasons.push(format!(
            "{} elements are NaN or infinite on one side only ({} NaN in the candidate)",
            not_finite.disagreements, not_finite.candidate_nans
        ));
    }
    let wrong = result.routing.filter(|routing| routing.wrong > 0);
    reasons.extend(wrong.map(|routing| routing.to_string()));
    let broken = result.checks.iter().filter(|check| !check.holds);
    reasons.extend(broken.filter_map(|check| broken_bound(result, check)));
    let mut text = reasons.join("; ");
    text += &format!(" ({})", result.resolved.origin);
    if let Some(worst) = &result.metrics.max_abs {
        text += &format!(
            "; worst at {:?}: reference {:e}, candidate {:e}",
            worst.position, worst.reference, worst.candidate
        );
    }
    for name in result.stretch.lacks() {
        text += &format!("; the candidate lacks {name}");
    }
    text
}

fn broken_bound(result: &StageResult, check: &BoundCheck) -> Option<String> {
    let elements = result.metrics.elements;
    let measured = figure(check.measured);
    Some(match check.bound {
        // Already said: nothing but the disagreement breaks it.
        _ if check.measured == 0.0 => return None,
        Bound::Exact => format!("{measured} of {elements} elements differ where none may"),
        Bound::Close(_) => format!("{measured} of {elements} elements outside {}", check.bound),
        Bound::Abs(allowed)
        | Bound::Rel(allowed)
        | Bound::Stat(allowed)
        | Bound::StatRms(allowed) => {
            format!(
                "{} {measured} where {allowed:e} is allowed",
                check.bound.kind()
            )
        }
        Bound::StatRounding => {
            format!("means differ by {measured} times what rounding makes of them")
        }
        Bound::Rounding => {
            let worst_ratio = result.metrics.worst_ratio.as_ref()?;
            format!(
                "diff / budget {}, where {:.1e} is allowed",
                short(worst_ratio.ratio),
                worst_ratio.allowed
            )
        }
        Bound::Flips(_) => {
            let flips = result.metrics.flips.as_ref()?;
            format!(
                "{} of {} elements differ where {} are expected ({})",
                flips.observed,
                flips.elements,
                short(flips.expected),
                probability(flips.log10_p)
            )
        }
        Bound::Ulp(allowed) => format!("{measured} ulp where {allowed} are allowed"),
    })
}

/// A probability by its logarithm; how small one is that is as good as none says nothing.
fn probability(log10: f64) -> String {
    const LEAST: f64 = -30.0;
    if log10 < LEAST {
        format!("p < 1e{LEAST:.0}")
    } else {
        format!("p = 1e{log10:.0}")
    }
}

/// A figure in as few characters as it needs.
pub(super) fn figure(value: f64) -> String {
    if value == 0.0 {
        "0".into()
    } else if value.fract() == 0.0 && value.abs() < 1e6 {
        format!("{value}")
    } else {
        format!("{value:.1e}")
    }
}

/// A ratio in as few characters as tell it apart from 1.
pub(super) fn short(value: f64) -> String {
    if value == 0.0 {
        "0".into()
    } else if (0.01..1000.0).contains(&value) {
        format!("{value:.2}")
    } else {
        format!("{value:.1e}")
    }
}

/// The GPU that a case ran on, and what the run took of it.
pub(super) fn on_gpu(outcome: &CaseOutcome) -> Option<String> {
    let on_gpu = outcome.on_gpu.as_ref()?;
    let exact = outcome.is_held_exactly();
    let held = match (on_gpu.not_comparable.is_empty(), exact) {
        (_, true) => "held to the bit",
        (true, false) => "comparable to the bit, but held to other tolerances",
        (false, false) => "held to tolerances",
    };
    Some(format!(
        "on {}, {held}: {:.1} ms, at most {:.1} MB of its memory",
        on_gpu.gpu,
        on_gpu.stats.elapsed_ms,
        on_gpu.stats.peak_memory as f64 / 1e6
    ))
}

/// The stage that comes closest to its rounding budget, as the end of a sentence; nothing if none has a
/// budget.
pub(super) fn worst_of_budgets(outcome: &CaseOutcome) -> String {
    let ratios = outcome.stages.iter().filter_map(|result| {
        let worst_ratio = result.metrics.worst_ratio.as_ref()?;
        Some((worst_ratio.ratio, &result.stage))
    });
    let differs = |result: &StageResult| result.metrics.unequal > 0;
    match ratios.reduce(|a, b| if b.0 > a.0 { b } else { a }) {
        None => String::new(),
        Some(_) if !outcome.stages.iter().any(differs) => "; no stage differs".into(),
        // Those that do have none: they ran chained, or other bounds hold.
        Some((0.0, _)) => "; no stage with a rounding budget differs".into(),
        Some((ratio, stage)) => format!("; worst diff/budget {} ({stage})", short(ratio)),
    }
}

/// How the errors of both sides grow from block to block of a chained run, if the oracle was asked.
pub(super) fn growth(outcome: &CaseOutcome) -> Option<String> {
    let blocks = outcome.stages.iter().filter(|result| {
        let name = result.stage.as_str();
        let last = name.rsplit('.').next();
        result.mode == Mode::Chained && last.is_some_and(|last| last.parse::<usize>().is_ok())
    });
    let errors: Vec<(&StageResult, OracleErrors)> = blocks
        .filter_map(|result| Some((result, result.oracle?)))
        .collect();
    let ((first, from), (last, to)) = errors.first().zip(errors.last())?;
    (errors.len() > 1).then(|| {
        format!(
            "error against fp64 from {} to {}: the reference's {} to {}, the candidate's {} to {}",
            first.stage,
            last.stage,
            figure(from.reference),
            figure(to.reference),
            figure(from.candidate),
            figure(to.candidate)
        )
    })
}

/// Why stages fail, in sentences: one an explanation, then what narrows it.
pub(super) fn explanations(outcome: &CaseOutcome) -> Vec<Vec<String>> {
    let all = outcome.explanations.iter();
    all.map(|explanation| {
        let mut lines = vec![explained(explanation)];
        for cause in &explanation.causes {
            if !cause.alternatives.is_empty() {
                lines.push(format!("also fits: {}", cause.alternatives.join("; ")));
            }
        }
        lines.extend(explanation.hints.iter().cloned());
        lines.extend(list(
            &explanation.untried,
            "not tried, after nothing was found at others of the kind",
        ));
        lines
    })
    .collect()
}

fn explained(explanation: &Explanation) -> String {
    let mut text = explanation.place();
    if explanation.stages.len() > 1 {
        text += &format!(" ({} stages)", explanation.stages.len());
    }
    let mut before = &explanation.before;
    let mut separator = ": ";
    for cause in &explanation.causes {
        text += &format!("{separator}{}; {}", cause.finding, cause.remedy);
        separator = "; and ";
        if cause.after == *before {
            // It could not be tried.
            return text + &format!(" ({before})");
        }
        text += &format!(" {}", fall(before, &cause.after));
        before = &cause.after;
    }
    if !explanation.complete {
        let rest = if explanation.causes.is_empty() {
            "nothing that parity knows explains the difference"
        } else {
            "nothing that parity knows explains the rest"
        };
        text += &format!("{separator}{rest} ({before})");
    }
    text
}

/// How far the evidence against a stage falls, in the terms that it fails in.
fn fall(before: &Evidence, after: &Evidence) -> String {
    match (&before.flips, &after.flips) {
        _ if before.ratio > 1.0 => format!(
            "diff/budget falls from {} to {}",
            short(before.ratio),
            short(after.ratio)
        ),
        (Some(were), Some(are)) => format!(
            "the elements that differ fall from {} to {} of {} ({} expected)",
            were.observed,
            are.observed,
            are.elements,
            short(are.expected)
        ),
        _ => format!("diff/budget is {}", short(after.ratio)),
    }
}

/// The first of some things, and how many more there are; `None` if there are none.
fn list(all: &[impl fmt::Display], what: &str) -> Option<String> {
    const SHOWN: usize = 4;
    (!all.is_empty()).then(|| format!("{what}: {}", listed(all, SHOWN)))
}

/// What was not compared, in sentences; empty if there is nothing to say.
pub(super) fn coverage(outcome: &CaseOutcome) -> Vec<String> {
    let coverage = &outcome.coverage;
    let mut lines = Vec::new();
    let mut stages = |stages: &[StageId], what: &str| lines.extend(list(stages, what));
    stages(&coverage.unrecorded, "not in the reference, not compared");
    stages(
        &coverage.unmatched,
        "in the reference alone, or not comparable",
    );
    stages(&coverage.empty, "without elements, not compared");
    let skipped = format!(
        "compared {} of the {} stages that the reference holds; not selected or not reached",
        coverage.compared, coverage.expected
    );
    stages(&coverage.skipped, &skipped);
    lines.extend(list(&coverage.incomparable, "in both, but not comparable"));
    let untouched = "weights that no comparison depends on, checked for NaN alone";
    lines.extend(list(&coverage.untouched, untouched));
    lines
}
