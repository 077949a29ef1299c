//! A converted model against a golden, and whatever else is compared.

use super::outcome::{CaseOutcome, OnGpu, StageResult};
use super::prepare::Prepared;
use super::run::Run;
use super::untouched::Untouched;
use super::{Candidate, Event, Options, diff_dumps, diff_tensors, explained};
use crate::backend::Cpu;
use crate::case::{Case, CaseFile, Rules};
use crate::dump::{Dump, NameMap, Pairs};
use crate::error::{BadInput, Result};
use crate::golden::Golden;
use std::path::Path;

/// Runs a case and judges every stage that the golden holds.
///
/// # Errors
/// If an input is malformed or golden and model do not fit together. That they differ is no error.
pub fn diff(case: &Case, options: &Options, on: &mut dyn FnMut(Event<'_>)) -> Result<CaseOutcome> {
    let golden = Golden::open(&case.golden)?;
    let candidate = Candidate::open_as(&case.model, case.dtype)?;
    diff_candidate(case, &golden, &candidate, options, on)
}

/// Runs a case of either kind.
///
/// # Errors
/// As [`diff`] and [`diff_paths`].
pub fn diff_case(
    case: &CaseFile,
    options: &Options,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<CaseOutcome> {
    match case {
        CaseFile::Model(case) => diff(case, options, on),
        CaseFile::Dumps(case) => {
            let map = case.map.as_deref().map(NameMap::open).transpose()?;
            let outcome = diff_paths(
                [&case.reference, &case.candidate],
                map.as_ref(),
                &case.rules,
                options,
                on,
            )?;
            Ok(CaseOutcome {
                name: case.name.clone(),
                ..outcome
            })
        }
    }
}

/// Compares what lies at two paths: goldens by what they say of their runs, anything else by names.
///
/// # Errors
/// As [`diff_dumps`] and [`diff_tensors`], and if no name is in both.
pub fn diff_paths(
    [reference, candidate]: [&Path; 2],
    map: Option<&NameMap>,
    rules: &Rules,
    options: &Options,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<CaseOutcome> {
    let are_goldens = [reference, candidate].into_iter().all(Golden::recognises);
    if are_goldens && map.is_none() {
        let (reference, candidate) = (Golden::open(reference)?, Golden::open(candidate)?);
        return diff_dumps(&reference, &candidate, rules, options, on);
    }
    let (reference, candidate) = (Dump::open(reference)?, Dump::open(candidate)?);
    let pairs = Pairs::new(&reference, &candidate, map.unwrap_or(&NameMap::default()))?;
    if pairs.pairs.is_empty() {
        let of = |dump: &Dump| dump.tensors()[0].name.clone();
        let expected = format!(
            "names of {}, such as {}",
            reference.path().display(),
            of(&reference)
        );
        let fault = BadInput::new(candidate.path(), expected, of(&candidate));
        let remedy = "give --map names.json: a map is proposed there if there is no such file";
        return Err(fault.remedy(remedy).into());
    }
    diff_tensors(&reference, &candidate, &pairs, rules, options, on)
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
