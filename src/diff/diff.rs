//! A converted model against a golden.

use super::outcome::{CaseOutcome, OnGpu, StageResult};
use super::prepare::Prepared;
use super::run::Run;
use super::untouched::Untouched;
use super::{Candidate, Event, Options, explained};
use crate::backend::Cpu;
use crate::case::Case;
use crate::error::Result;
use crate::golden::Golden;

/// Runs a case and judges every stage that the golden holds.
///
/// # Errors
/// If an input is malformed or golden and model do not fit together. That they differ is no error.
pub fn diff(case: &Case, options: &Options, on: &mut dyn FnMut(Event<'_>)) -> Result<CaseOutcome> {
    let golden = Golden::open(&case.golden)?;
    let candidate = Candidate::open_as(&case.model, case.dtype)?;
    diff_candidate(case, &golden, &candidate, options, on)
}

/// As [`diff`], of a golden and a model that are open already; those that the case names are not
/// looked at.
///
/// # Errors
/// As [`diff`].
pub fn diff_candidate(
    case: &Case,
    golden: &Golden,
    candidate: &Candidate,
    options: &Options,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<CaseOutcome> {
    let prepared = Prepared::new(case, golden, candidate, options)?;
    let (stages, on_gpu) = run(&prepared, on)?;
    on(Event::Finished);
    let explanations = if options.explain {
        explained::failures(&prepared, &stages, on)?
    } else {
        Vec::new()
    };
    let untouched = Untouched::of(&prepared)?;
    Ok(CaseOutcome::new(
        prepared,
        stages,
        explanations,
        on_gpu,
        untouched,
    ))
}

fn run(
    prepared: &Prepared<'_>,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<(Vec<StageResult>, Option<OnGpu>)> {
    match &prepared.on_cuda {
        Some(on_cuda) => {
            let (stages, on_gpu) = on_cuda.run(prepared, on)?;
            Ok((stages, Some(on_gpu)))
        }
        None => {
            let run = Run::new(prepared, &Cpu, &prepared.candidate.plan)?;
            Ok((run.finish(on)?, None))
        }
    }
}
