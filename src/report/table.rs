//! The table of stages that terminal and Markdown share, with its footnotes.

use super::summary::figure;
use crate::diff::{CaseOutcome, StageResult, Verdict};

/// The columns.
pub(super) const HEADER: [&str; 9] = [
    "stage",
    "mode",
    "max abs",
    "rel",
    "ulp",
    "unequal",
    "tolerance",
    "verdict",
    "note",
];

/// Rows of cells and the footnotes they refer to.
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    /// Where tolerances come from and what departures are, by their marks.
    pub(super) footnotes: Vec<(String, String)>,
}

pub(super) struct Row {
    pub(super) cells: [String; 9],
    pub(super) verdict: Verdict,
}

impl Table {
    pub(super) fn new(outcome: &CaseOutcome) -> Self {
        let mut origins = Marks::new(('a'..='z').map(String::from));
        let mut notes = Marks::new((1..).map(|n: u32| n.to_string()));
        let rows = outcome
            .stages
            .iter()
            .map(|result| Row {
                cells: cells(result, &mut origins, &mut notes),
                verdict: result.verdict(),
            })
            .collect();
        let footnotes = origins.texts.into_iter().chain(notes.texts).collect();
        Self { rows, footnotes }
    }
}

fn cells(result: &StageResult, origins: &mut Marks, notes: &mut Marks) -> [String; 9] {
    let metrics = &result.metrics;
    let mut remarks = Vec::new();
    if let Some(departure) = &result.departure {
        let text = format!(
            "rounds elsewhere: {}; the reference: {}",
            departure.ours, departure.theirs
        );
        remarks.push(format!("rounds elsewhere [{}]", notes.mark(text)));
        let lacks = departure.lacks.iter();
        remarks.extend(lacks.map(|name| format!("candidate lacks {name}")));
    }
    remarks.extend(
        result
            .completed
            .map(|what| format!("reference with {what}")),
    );
    let nans = metrics.non_finite.candidate_nans;
    if nans > 0 {
        remarks.push(format!("{nans} NaN"));
    }
    let origin = origins.mark(format!("tolerance: {}", result.in_force.origin));
    [
        result.stage.to_string(),
        result.mode.to_string(),
        figure(metrics.max_abs_difference()),
        figure(metrics.relative_frobenius),
        metrics.max_ulp.map_or("-".into(), |ulp| ulp.to_string()),
        unequal(metrics.unequal, metrics.elements),
        format!("{} [{origin}]", result.in_force.tolerance),
        result.verdict().to_string(),
        remarks.join(", "),
    ]
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
