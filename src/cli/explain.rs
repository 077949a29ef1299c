//! `parity explain`.

use super::args::ExplainArgs;
use super::diff::{Report, adjusted_cases, outcomes};
use crate::diff::{Modes, Options, Verdict};
use crate::report::Detail;
use anyhow::Result;

pub(super) fn run(args: &ExplainArgs) -> Result<Verdict> {
    let options = Options {
        // A cause shows where inputs are the reference's own.
        modes: Modes::Isolated,
        stages: args.stage.clone(),
        confidence: args.cases.confidence,
        explain: true,
        ..Options::default()
    };
    for case in adjusted_cases(&args.cases)? {
        case.of_model()?;
    }
    let report = Report::open(&args.report, Detail::Causes)?;
    report.write(&outcomes(&args.cases, options)?)
}
