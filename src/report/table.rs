//! The table of stages that terminal and Markdown share, with its footnotes.

use super::summary::{figure, short};
use crate::compare::Flips;
use crate::diff::{CaseOutcome, StageResult, Verdict};

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
    if let Some(plan_difference) = &result.plan_difference {
        let text = format!(
            "{}: {}; the reference: {}",
            plan_difference.name(),
            plan_difference.ours,
            plan_difference.theirs
        );
        remarks.push(format!("{} [{}]", plan_difference.name(), notes.mark(text)));
        let lacks = plan_difference.lacks.iter();
        remarks.extend(lacks.map(|name| format!("candidate lacks {name}")));
    }
    remarks.extend(
        result
            .completed
            .map(|what| format!("reference with {what}")),
    );
    let nans = result.metrics.non_finite.candidate_nans;
    if nans > 0 {
        remarks.push(format!("{nans} NaN"));
    }
    (!remarks.is_empty()).then(|| remarks.join(", "))
}

/// Elements that differ against those expected to, where both sides round at the same places.
fn flips(flips: &Flips) -> String {
    format!("{}/{}", flips.observed, short(flips.expected))
}

fn unequal(unequal: usize, elements: usize) -> String {
    match unequal {
        0 => "0".into(),
        _ => {
            let percent = 100.0 * unequal as f64 / elements as f64;
            match percent < 0.1 {
                true => format!("{unequal} (<0.1 %)"),
                false => format!("{unequal} ({percent:.1} %)"),
            }
        }
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
