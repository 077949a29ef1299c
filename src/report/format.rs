//! The formats a report can be had in.

use super::{json, markdown, terminal};
use crate::diff::CaseOutcome;
use std::fmt;

/// A format of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables for people; coloured where the terminal can.
    Terminal,
    /// For programs; the schema is in `docs/report.md`.
    Json,
    /// For a pull-request comment.
    Markdown,
}

/// How much a report for people holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Every stage.
    Stages,
    /// Verdicts and explanations.
    Causes,
}

impl Format {
    /// The report as text; JSON always has everything.
    pub fn render(self, outcomes: &[CaseOutcome], detail: Detail) -> String {
        match self {
            Self::Terminal => terminal::render(outcomes, detail),
            Self::Json => json::render(outcomes),
            Self::Markdown => markdown::render(outcomes, detail),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Terminal => "terminal",
            Self::Json => "json",
            Self::Markdown => "markdown",
        })
    }
}
