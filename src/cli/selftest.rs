//! `parity selftest`.

use super::args::SelfTestArgs;
use super::diff::adjusted_cases;
use super::print::print;
use super::progress::Progress;
use crate::diff::{Options, Verdict};
use crate::selftest::{SelfTest, json, selftest, text};
use anyhow::Result;

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum SelfTestFormat {
    Terminal,
    Json,
}

pub(super) fn run(args: &SelfTestArgs) -> Result<Verdict> {
    let options = Options {
        backend: args.cases.device.open()?,
        stages: args.stages.clone(),
        modes: args.mode,
        confidence: args.cases.confidence,
        ..Options::default()
    };
    let mut progress = Progress::new();
    let mut tests: Vec<SelfTest> = Vec::new();
    for case in adjusted_cases(&args.cases)? {
        let case = case.of_model()?;
        tests.push(selftest(&case, &options, &mut |event| progress.on(&event))?);
    }
    drop(progress);
    print(&match args.format {
        SelfTestFormat::Terminal => tests.iter().map(text).collect(),
        SelfTestFormat::Json => json(&tests),
    })?;
    let failed = tests
        .iter()
        .any(|test| test.verdict(args.require) == Verdict::Fail);
    Ok(if failed { Verdict::Fail } else { Verdict::Pass })
}
