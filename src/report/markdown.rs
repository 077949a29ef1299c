//! Markdown for a pull-request comment: the verdict first, tables folded away.

use super::format::Detail;
use super::summary::{coverage, describe_failure, explanations, on_gpu, overall};
use super::table::{Table, VERDICT};
use crate::diff::{CaseOutcome, Verdict};
use crate::words;
use std::fmt::Write;

pub(super) fn render(outcomes: &[CaseOutcome], detail: Detail) -> String {
    let mut text = String::new();
    let _ = match overall(outcomes) {
        Verdict::Pass => writeln!(text, "### parity holds\n"),
        Verdict::Fail => writeln!(text, "### parity does not hold\n"),
    };
    let _ = writeln!(
        text,
        "| case | verdict | first failing stage |\n|---|---|---|"
    );
    for outcome in outcomes {
        let fault = || outcome.coverage.fault().unwrap_or_default();
        let first = outcome.first_failure().map_or_else(
            || escaped(&fault()),
            |first| {
                let stage = code(first.stage.as_str());
                let why = escaped(&describe_failure(first));
                format!("{stage} ({}): {why}", first.mode)
            },
        );
        let (name, verdict) = (escaped(&outcome.name), bold(outcome.verdict()));
        let _ = writeln!(text, "| {name} | {verdict} | {first} |");
    }
    for outcome in outcomes {
        causes(&mut text, outcome);
    }
    if detail == Detail::Stages {
        for outcome in outcomes {
            details(&mut text, outcome);
        }
    }
    text
}

fn causes(text: &mut String, outcome: &CaseOutcome) {
    let explanations = explanations(outcome);
    if explanations.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n**{}**, why:\n", escaped(&outcome.name));
    for lines in explanations {
        for (number, sentence) in lines.iter().enumerate() {
            let indent = if number == 0 { "" } else { "  " };
            let _ = writeln!(text, "{indent}- {}", escaped(sentence));
        }
    }
}

fn details(text: &mut String, outcome: &CaseOutcome) {
    let table = Table::new(outcome);
    let open = if outcome.verdict() == Verdict::Fail {
        " open"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "\n<details{open}><summary>{}: {}</summary>\n",
        html(&outcome.name),
        html(&outcome.title)
    );
    let _ = writeln!(text, "| {} |", table.header.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(table.header.len()));
    for row in &table.rows {
        let cells = row.cells.iter().zip(&table.header);
        let cells: Vec<String> = cells
            .map(|(cell, heading)| match *heading {
                "stage" => code(cell),
                VERDICT => bold(row.verdict).to_owned(),
                _ => escaped(cell),
            })
            .collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
    let footnotes = table
        .footnotes
        .iter()
        .map(|(mark, note)| format!("[{mark}] {note}"));
    for line in footnotes
        .chain(on_gpu(outcome))
        .chain(outcome.notes.clone())
        .chain(coverage(outcome))
    {
        let _ = writeln!(text, "- {}", escaped(&line));
    }
    text.push_str("\n</details>\n");
}

fn bold(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "**FAIL**",
    }
}

/// Text that is neither Markdown nor HTML: it cannot end a table's cell, be a link or an element.
fn escaped(text: &str) -> String {
    let text = html(text).replace('|', "\\|");
    text.replace('[', "\\[").replace(']', "\\]")
}

/// Text that is no HTML, on one line.
fn html(text: &str) -> String {
    let text = words::sentence(text).to_string().replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

/// A name as code, which it cannot end.
fn code(name: &str) -> String {
    let name = words::name(name).to_string().replace('|', "\\|");
    format!("`{}`", name.replace('`', "'"))
}
