//! Two dumps of any model against each other: no plan, no model, names and values only.

use super::growth::Growth;
use super::outcome::{CaseOutcome, Coverage, StageResult, Verdict};
use super::stretch::Stretch;
use super::{Event, Options};
use crate::case::{Mode, ResolvedTolerance, Rules, ToleranceContext};
use crate::compare::{Bound, Spec, Tolerance, compare};
use crate::dump::{Dump, Dumped, Pairs};
use crate::error::{BadInput, Error, Result};
use crate::plan::StageId;
use crate::tensor::{DType, Tensor};

/// Compares the tensors that belong together, in the reference's order.
///
/// There is no budget without a plan: a tensor is held to what its type and depth explain, and to what came before
/// it: one that is much farther off than any before stands out. Integers have to be equal.
///
/// # Errors
/// If a tensor cannot be read, two have other shapes, no two belong together, or a bound is asked for that needs a
/// plan.
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
    let mut types: Vec<[DType; 2]> = Vec::new();
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
        let (expected, found) = (ours.load()?, theirs.load()?);
        let result = judged(&id, [reference, candidate], [&expected, &found], |dtype| {
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
    if stages.is_empty() {
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

fn judged(
    id: &StageId,
    [reference, candidate]: [&Dump; 2],
    [expected, found]: [&Tensor; 2],
    resolve: impl FnOnce(DType) -> ResolvedTolerance,
) -> Result<StageResult> {
    let refused = |file: &Dump, expected: String, found: String| -> Error {
        let fault = BadInput::new(file.path(), expected, found);
        fault.at(id.as_str()).into()
    };
    if expected.shape() != found.shape() {
        let shapes = [expected, found].map(|tensor| format!("shape {:?}", tensor.shape()));
        let [ours, theirs] = shapes;
        return Err(refused(candidate, ours, theirs));
    }
    let dtype = expected.dtype();
    let integers = dtype.float().is_none() || found.dtype().float().is_none();
    let metrics = if integers {
        let [wide, other] = [expected.widened()?, found.widened()?];
        compare(&wide, &other, &Spec::default())?
    } else {
        compare(expected, found, &Spec::default())?
    };
    if metrics.non_finite.reference_nans > 0 {
        let nans = format!("{} NaN", metrics.non_finite.reference_nans);
        let expected = "numbers in a reference; leave the tensor out with --stages".to_owned();
        return Err(refused(reference, expected, nans));
    }
    let resolved = if integers {
        ResolvedTolerance {
            tolerance: Tolerance {
                bounds: vec![Bound::Exact],
            },
            origin: "built-in, integers".into(),
        }
    } else {
        resolve(dtype)
    };
    Ok(StageResult {
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
    })
}
