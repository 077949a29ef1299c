//! The table of stages that terminal and Markdown share, with its footnotes.

use super::summary::{figure, short};
use crate::compare::Flips;
use crate::diff::{CaseOutcome, StageResult, Verdict};
use crate::plan::PlanDifference;

/// Column headings, their cells and the footnotes they refer to.
pub(super) struct Table {
    pub(super) header: Vec<&'static str>,
    pub(super) rows: Vec<Row>,
    /// Where tolerances come from and what plan differences are, by their marks.
    pub(super) footnotes: Vec<(String, String)>,
}

pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) verdict: Verdict,
}

/// Heading of the column that says whether a stage passes.
pub(super) const VERDICT: &str = "verdict";

impl Table {
    /// Columns that no stage has anything to say in are left out.
    pub(super) fn new(outcome: &CaseOutcome) -> Self {
        let mut origins = Marks::new(('a'..='z').map(String::from));
        let mut notes = Marks::new((1..).map(|n: u32| n.to_string()));
        let all: Vec<[(&'static str, Option<String>); 14]> = outcome
            .stages
            .iter()
            .map(|result| cells(result, &mut origins, &mut notes))
            .collect();
        let headings = all
            .first()
            .map(|row| row.each_ref().map(|(heading, _)| *heading));
        let used = |column: &usize| all.iter().any(|row| row[*column].1.is_some());
        let columns: Vec<usize> = (0..headings.map_or(0, |row| row.len()))
            .filter(used)
            .collect();
        let rows = all.iter().zip(&outcome.stages).map(|(row, result)| Row {
            cells: columns
                .iter()
                .map(|column| row[*column].1.clone().unwrap_or_else(|| "-".into()))
                .collect(),
            verdict: result.verdict(),
        });
        Self {
            header: headings.map_or_else(Vec::new, |row| {
                columns.iter().map(|column| row[*column]).collect()
            }),
            rows: rows.collect(),
            footnotes: origins.texts.into_iter().chain(notes.texts).collect(),
        }
    }
}

fn cells(
    result: &StageResult,
    origins: &mut Marks,
    notes: &mut Marks,
) -> [(&'static str, Option<String>); 14] {
    let metrics = &result.metrics;
    let origin = origins.mark(format!("tolerance: {}", result.resolved.origin));
    let oracle = result.oracle.as_ref();
    [
        ("stage", Some(result.stage.to_string())),
        ("mode", Some(result.mode.to_string())),
        ("max abs", Some(figure(metrics.max_abs_difference()))),
        ("rel", Some(figure(metrics.relative_frobenius))),
        ("ulp", metrics.max_ulp.map(|ulp| ulp.to_string())),
        ("unequal", Some(unequal(metrics.unequal, metrics.elements))),
        (
            "diff/budget",
            metrics
                .worst_ratio
                .as_ref()
                .map(|worst_ratio| short(worst_ratio.ratio)),
        ),
        ("flips/expected", metrics.flips.as_ref().map(flips)),
        ("reference error", oracle.map(|of| figure(of.reference))),
        ("candidate error", oracle.map(|of| figure(of.candidate))),
        ("ratio", oracle.map(|of| short(of.ratio()))),
        (
            "tolerance",
            Some(format!("{} [{origin}]", result.resolved.tolerance)),
        ),
        (VERDICT, Some(result.verdict().to_string())),
        ("note", remarks(result, notes)),
    ]
}

fn remarks(result: &StageResult, notes: &mut Marks) -> Option<String> {
    let mut remarks = Vec::new();
    if let Some(difference) = result.plan_difference() {
        let mark = notes.mark(described(difference));
        remarks.push(format!("{} [{mark}]", difference.name()));
    }
    remarks.extend(over(result, notes));
    let lacks = result.stretch.lacks();
    remarks.extend(lacks.map(|name| format!("candidate lacks {name}")));
    remarks.extend(result.aligned.map(|what| format!("reference with {what}")));
    let nans = result.metrics.non_finite.candidate_nans;
    if nans > 0 {
        remarks.push(format!("{nans} NaN"));
    }
    (!remarks.is_empty()).then(|| remarks.join(", "))
}

/// Over which stages that the reference does not hold the result was judged.
fn over(result: &StageResult, notes: &mut Marks) -> Option<String> {
    let through = &result.stretch.through;
    let stages = match &through[..] {
        [] => return None,
        [only] => only.to_string(),
        [first, ..] => format!("{} stages from {first} on", through.len()),
    };
    let differences = result.stretch.differences.iter();
    let differences = differences.filter(|(stage, _)| *stage != result.stage);
    let texts =
        differences.map(|(stage, difference)| format!("{stage}: {}", described(difference)));
    let text = texts.collect::<Vec<_>>().join("; ");
    let mark = if text.is_empty() {
        String::new()
    } else {
        format!(" [{}]", notes.mark(text))
    };
    Some(format!("judged over {stages} too, not recorded{mark}"))
}

fn described(difference: &PlanDifference) -> String {
    let PlanDifference { ours, theirs, .. } = difference;
    format!("{}: {ours}; the reference: {theirs}", difference.name())
}

/// Elements that differ against those expected to, where both sides round at the same places.
fn flips(flips: &Flips) -> String {
    format!("{}/{}", flips.observed, short(flips.expected))
}

fn unequal(unequal: usize, elements: usize) -> String {
    let percent = 100.0 * unequal as f64 / elements as f64;
    if unequal == 0 {
        "0".into()
    } else if percent < 0.1 {
        format!("{unequal} (<0.1 %)")
    } else {
        format!("{unequal} ({percent:.1} %)")
    }
}

/// Hands out one mark for each different text.
struct Marks {
    free: Box<dyn Iterator<Item = String>>,
    texts: Vec<(String, String)>,
}

impl Marks {
    fn new(free: impl Iterator<Item = String> + 'static) -> Self {
        Self {
            free: Box::new(free),
            texts: Vec::new(),
        }
    }

    fn mark(&mut self, text: String) -> String {
        if let Some((mark, _)) = self.texts.iter().find(|(_, known)| *known == text) {
            return mark.clone();
        }
        let mark = self.free.next().unwrap_or_else(|| "*".into());
        self.texts.push((mark.clone(), text));
        mark
    }
}
