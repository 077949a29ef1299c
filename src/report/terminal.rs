//! Tables for people. Colours are in the text; who prints it strips them where they do not belong.

use super::format::Detail;
use super::summary::{
    coverage, describe_failure, explanations, growth, on_gpu, overall, worst_of_budgets,
};
use super::table::Table;
use crate::diff::{CaseOutcome, Verdict};
use crate::words;
use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, presets};
use std::fmt::Write;

const PASS: Style = AnsiColor::Green.on_default();
const FAIL: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

pub(super) fn render(outcomes: &[CaseOutcome], detail: Detail) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        // Of many cases only those with something to see are shown in full.
        let full = outcomes.len() == 1 || outcome.verdict() == Verdict::Fail;
        case(&mut text, outcome);
        if full && detail == Detail::Stages {
            text.push_str(&table(outcome));
        }
    }
    if outcomes.len() > 1 {
        let passed = outcomes
            .iter()
            .filter(|o| o.verdict() == Verdict::Pass)
            .count();
        let verdict = styled(overall(outcomes));
        let _ = writeln!(
            text,
            "{verdict}: {passed} of {} cases within tolerance",
            outcomes.len()
        );
    }
    text
}

fn case(text: &mut String, outcome: &CaseOutcome) {
    let verdict = styled(outcome.verdict());
    let title = words::sentence(&outcome.title);
    let _ = writeln!(text, "{verdict} {}: {title}", words::name(&outcome.name));
    let mut line = |what: String| {
        let _ = writeln!(text, "  {what}");
    };
    if let Some(first) = outcome.first_failure() {
        let failed = outcome.failures().count();
        line(format!(
            "{failed} of {} comparisons out of tolerance",
            outcome.stages.len()
        ));
        line(format!(
            "first failing stage: {FAIL}{}{FAIL:#} ({}): {}",
            first.stage,
            first.mode,
            words::sentence(&describe_failure(first))
        ));
    } else if let Some(fault) = outcome.coverage.fault() {
        line(words::sentence(&fault).to_string());
    } else {
        line(format!(
            "{} comparisons of {} stages within tolerance{}",
            outcome.stages.len(),
            outcome.coverage.compared,
            worst_of_budgets(outcome)
        ));
    }
    for lines in explanations(outcome) {
        for (number, sentence) in lines.iter().enumerate() {
            let lead = if number == 0 { "why: " } else { "     " };
            line(format!("{lead}{}", words::sentence(sentence)));
        }
    }
    for sentence in growth(outcome).into_iter().chain(on_gpu(outcome)) {
        line(sentence);
    }
    for note in outcome.notes.iter().chain(&coverage(outcome)) {
        line(words::sentence(note).to_string());
    }
}

fn table(outcome: &CaseOutcome) -> String {
    let table = Table::new(outcome);
    let mut drawn = comfy_table::Table::new();
    drawn
        .load_style(presets::NOTHING)
        // Rows stay whole lines: they are searched, cut and pasted.
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(&table.header);
    for row in &table.rows {
        drawn.add_row(&row.cells);
    }
    let mut text = String::new();
    for (number, line) in drawn.lines().enumerate() {
        let style = match number.checked_sub(1).map(|row| table.rows[row].verdict) {
            None => DIM,
            Some(Verdict::Fail) => FAIL,
            Some(Verdict::Pass) => Style::new(),
        };
        let _ = writeln!(text, "  {style}{}{style:#}", line.trim_end());
    }
    for (mark, note) in &table.footnotes {
        let _ = writeln!(text, "  {DIM}[{mark}] {}{DIM:#}", words::sentence(note));
    }
    text
}

fn styled(verdict: Verdict) -> String {
    let style = match verdict {
        Verdict::Pass => PASS,
        Verdict::Fail => FAIL,
    };
    format!("{style}{verdict}{style:#}")
}
