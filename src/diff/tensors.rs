//! Two dumps of any model against each other: no plan, no model, names and values only.

use super::growth::Growth;
use super::outcome::{CaseOutcome, Coverage, Incomparable, StageResult, Verdict};
use super::stretch::Stretch;
use super::{Event, Options};
use crate::case::{Mode, ResolvedTolerance, Rules, ToleranceContext};
use crate::compare::{Bound, Spec, Tolerance, compare};
use crate::dump::{Alike, Dump, Dumped, Pairs};
use crate::error::{BadInput, Result};
use crate::plan::StageId;
use crate::tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// Compares the tensors that belong together, in the reference's order.
///
/// There is no budget without a plan: a tensor is held to what its type and depth explain, and to what came before
/// it: one that is much farther off than any before stands out. Integers have to be equal.
///
/// # Errors
/// If a tensor cannot be read, no two belong together, or a bound is asked for that needs a plan.
pub fn diff_tensors(
    reference: &Dump,
    candidate: &Dump,
    pairs: &Pairs<'_>,
    rules: &Rules,
    options: &Options,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<CaseOutcome> {
    if let Some(rule) = rules
        .rules
        .iter()
        .find(|rule| rule.tolerance.needs_budget())
    {
        let expected = "bounds on values: exact, abs, rel, close, ulp";
        let found = format!("{}, which need a plan: two dumps have none", rule.tolerance);
        return Err(BadInput::new(&rule.origin, expected, found).into());
    }
    let name = "dumps";
    on(Event::Started {
        case: name,
        steps: pairs.pairs.len(),
    });
    let stage = |tensor: &Dumped| StageId::from(tensor.name.as_str());
    let blocks = pairs
        .pairs
        .iter()
        .filter_map(|(tensor, _)| stage(tensor).layer());
    let blocks = blocks.max().map_or(1, |last| last.saturating_add(1));
    let mut growth = Growth::default();
    let mut stages: Vec<StageResult> = Vec::new();
    let mut coverage = Coverage {
        expected: pairs.pairs.len() + pairs.only_reference.len(),
        unmatched: pairs
            .only_reference
            .iter()
            .map(|tensor| stage(tensor))
            .collect(),
        unrecorded: pairs
            .only_candidate
            .iter()
            .map(|tensor| stage(tensor))
            .collect(),
        required: options.coverage,
        ..Coverage::default()
    };
    coverage.expected += pairs.left_out.len();
    coverage.skipped = pairs.left_out.iter().map(|tensor| stage(tensor)).collect();
    let mut types: Vec<[DType; 2]> = Vec::new();
    // What the values so far were rounded to. What is computed of them in a wider type is no better.
    let mut coarsest: Option<DType> = None;
    let mut carried = false;
    let mut laid_out: BTreeMap<&str, usize> = BTreeMap::new();
    for (ours, theirs) in &pairs.pairs {
        let id = stage(ours);
        on(Event::Step { id: id.as_str() });
        let is_done = options.fail_fast
            && stages
                .last()
                .is_some_and(|result| result.verdict() == Verdict::Fail);
        if is_done || !options.stages.matches(&id) {
            coverage.skipped.push(id);
            continue;
        }
        let Alike {
            values: [expected, found],
            how,
        } = match ours.load_with(theirs)? {
            Ok(both) => both,
            Err(why) => {
                coverage.incomparable.push(Incomparable { stage: id, why });
                continue;
            }
        };
        for how in how {
            *laid_out.entry(how).or_default() += 1;
        }
        let own = expected.dtype();
        let dtype = coarser(own, coarsest);
        coarsest = own.float().map(|_| dtype).or(coarsest);
        carried |= dtype != own;
        let result = judged(&id, [&expected, &found], || {
            let context = ToleranceContext {
                stage: &id,
                role: None,
                device: None,
                same_kernels: false,
                mode: Mode::Recorded,
                dtype,
                budgeted: false,
                layers: blocks,
            };
            growth.tightened(rules.resolve(&context), dtype)
        })?;
        let result = match result {
            Ok(result) => result,
            Err(why) => {
                coverage.incomparable.push(Incomparable { stage: id, why });
                continue;
            }
        };
        growth.add(&result);
        if expected.dtype() != found.dtype() && !types.contains(&[expected.dtype(), found.dtype()])
        {
            types.push([expected.dtype(), found.dtype()]);
        }
        if result.metrics.elements == 0 {
            coverage.empty.push(id);
        } else {
            coverage.compared += 1;
        }
        on(Event::Judged(&result));
        stages.push(result);
    }
    on(Event::Finished);
    coverage.modes = vec![(Mode::Recorded, coverage.compared)];
    if stages.is_empty() && coverage.incomparable.is_empty() {
        let expected = format!(
            "a tensor that both dumps hold and {} matches",
            options.stages
        );
        return Err(BadInput::new(candidate.path(), expected, "none").into());
    }
    let mut notes = vec![growth.note(&stages)];
    notes.push(
        "no model was run: a stage is held to its type, its depth and the stages before it, not to a rounding \
         budget"
            .into(),
    );
    notes.extend(types.iter().map(|[ours, theirs]| {
        format!("the reference's values are {ours}, the candidate's {theirs}: held to {ours}")
    }));
    notes.extend(
        laid_out
            .iter()
            .map(|(how, count)| format!("{count} stages {how}")),
    );
    if let Some(coarsest) = coarsest.filter(|_| carried) {
        notes.push(format!(
            "what the reference computes of {coarsest} values in a wider type is held to {coarsest}"
        ));
    }
    notes.extend(reference.notes().iter().chain(candidate.notes()).cloned());
    Ok(CaseOutcome {
        name: name.to_owned(),
        title: format!("{candidate} against {reference}"),
        stages,
        coverage,
        explanations: Vec::new(),
        on_gpu: None,
        notes,
    })
}

/// The less precise of a stage's type and what the values before it were rounded to; integers have nothing to do
/// with it.
fn coarser(own: DType, coarsest: Option<DType>) -> DType {
    let precision = |dtype: DType| dtype.unit_roundoff().unwrap_or(0.0);
    match coarsest {
        Some(coarsest) if own.float().is_some() && precision(coarsest) > precision(own) => coarsest,
        _ => own,
    }
}

/// A pair's result, held to what `resolve` gives where it is of numbers; else why it cannot be compared.
fn judged(
    id: &StageId,
    [expected, found]: [&Tensor; 2],
    resolve: impl FnOnce() -> ResolvedTolerance,
) -> Result<std::result::Result<StageResult, String>> {
    if expected.shape() != found.shape() {
        return Ok(Err(format!(
            "shape {:?} in the reference, {:?} in the candidate",
            expected.shape(),
            found.shape()
        )));
    }
    let dtype = expected.dtype();
    let integers = dtype.float().is_none() || found.dtype().float().is_none();
    let metrics = if integers {
        let [wide, other] = [expected.widened()?, found.widened()?];
        compare(&wide, &other, &Spec::default())?
    } else {
        compare(expected, found, &Spec::default())?
    };
    let nans = metrics.non_finite.reference_nans;
    if nans > 0 {
        return Ok(Err(format!("{nans} NaN in the reference")));
    }
    let resolved = if integers {
        ResolvedTolerance {
            tolerance: Tolerance {
                bounds: vec![Bound::Exact],
            },
            origin: "built-in, integers".into(),
        }
    } else {
        resolve()
    };
    Ok(Ok(StageResult {
        stage: id.clone(),
        mode: Mode::Recorded,
        device: None,
        dtype,
        shape: expected.shape().to_vec(),
        checks: resolved.tolerance.judge(&metrics),
        metrics,
        resolved,
        stretch: Stretch::default(),
        oracle: None,
        aligned: None,
        routing: None,
    }))
}
