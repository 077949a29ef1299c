//! Two goldens against each other; no model is run.

use super::check;
use super::outcome::{CaseOutcome, Coverage, StageResult, Verdict};
use super::{Event, Options};
use crate::case::{Mode, Rules, ToleranceContext};
use crate::compare::{Spec, compare, compare_statistics};
use crate::error::{BadInput, Result};
use crate::golden::{Golden, Reference};
use std::num::NonZeroUsize;

/// Compares what two goldens recorded, stage by stage in the reference's order.
///
/// Stages recorded in different variants (one with its bias, the other without) are not comparable and
/// are listed as unmatched.
///
/// # Errors
/// If a golden is malformed, a stage has two shapes, or no stage is in both.
pub fn diff_dumps(
    reference: &Golden,
    candidate: &Golden,
    rules: &Rules,
    options: &Options,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<CaseOutcome> {
    let (ours, theirs) = (candidate.manifest(), reference.manifest());
    let plans = [ours, theirs].map(|m| m.model.plan(m.dtype, &m.arithmetic));
    let [our_plan, their_plan] = plans;
    reference.check_runs_without_inputs()?;
    candidate.check_runs_without_inputs()?;
    let plan_differences = our_plan?.differences(&their_plan?);
    if !reference.tokens()?.bits_equal(&candidate.tokens()?) {
        let file = candidate.path().join(&ours.tokens.file);
        let fault = BadInput::new(file, "the reference's tokens", "others");
        return Err(fault
            .remedy("dump both frameworks on the same tokens")
            .into());
    }
    let name = "dumps";
    on(Event::Started {
        case: name,
        steps: theirs.stages.len(),
    });
    let mut stages: Vec<StageResult> = Vec::new();
    let mut coverage = Coverage::default();
    for record in &theirs.stages {
        let stage = &record.stage;
        on(Event::Step { id: stage.as_str() });
        let same_form = ours
            .stage(stage)
            .filter(|other| other.variant == record.variant);
        if same_form.is_none() {
            coverage.unmatched.push(stage.clone());
            continue;
        }
        if !options.stages.matches(stage) {
            continue;
        }
        let (Some(expected), Some(Reference::Full(found))) =
            (reference.reference(stage)?, candidate.reference(stage)?)
        else {
            coverage.unmatched.push(stage.clone());
            continue;
        };
        let resolved = rules.resolve(&ToleranceContext {
            stage,
            device: None,
            same_kernels: false,
            mode: Mode::Recorded,
            dtype: record.dtype,
            budgeted: false,
            layers: theirs.model.layers(),
        });
        let metrics = match &expected {
            Reference::Full(expected) => {
                if expected.shape() != found.shape() {
                    let shape = format!("shape {:?}", expected.shape());
                    let file = candidate.file_of(stage);
                    let fault = BadInput::new(file, shape, format!("shape {:?}", found.shape()));
                    return Err(fault.at(stage.as_str()).into());
                }
                let logits = stage.as_str() == "logits";
                let spec = Spec {
                    close: resolved.tolerance.close(),
                    budget: None,
                    vocab_shards: NonZeroUsize::new(theirs.tensor_parallel()).filter(|_| logits),
                };
                let metrics = compare(expected, &found, &spec);
                metrics.map_err(|e| e.in_file(reference.path().join(Golden::MANIFEST)))?
            }
            Reference::Statistics(expected) => {
                let metrics = compare_statistics(expected, &found);
                metrics.map_err(|e| e.in_file(reference.file_of(stage)))?
            }
        };
        check::reference(&metrics.non_finite, reference, stage)?;
        let result = StageResult {
            stage: stage.clone(),
            mode: Mode::Recorded,
            device: None,
            dtype: record.dtype,
            shape: found.shape().to_vec(),
            checks: resolved.tolerance.judge(&metrics),
            metrics,
            resolved,
            plan_difference: plan_differences.get(stage).cloned(),
            completed: None,
            oracle: None,
        };
        on(Event::Judged(&result));
        coverage.compared += 1;
        let failed = result.verdict() == Verdict::Fail;
        stages.push(result);
        if failed && options.fail_fast {
            break;
        }
    }
    on(Event::Finished);
    if coverage.compared == 0 {
        let path = candidate.path().join(Golden::MANIFEST);
        let expected = format!(
            "a stage that both goldens hold and {} matches",
            options.stages
        );
        return Err(BadInput::new(path, expected, "none").into());
    }
    let mut notes = vec![first_difference(&stages)];
    notes.extend(
        [reference, candidate]
            .into_iter()
            .filter_map(check::ignored_keys),
    );
    let only_ours = ours.stages.iter().map(|record| &record.stage);
    let only_ours = only_ours.filter(|stage| theirs.stage(stage).is_none());
    coverage.unrecorded = only_ours.cloned().collect();
    Ok(CaseOutcome {
        name: name.to_owned(),
        title: format!(
            "{} ({}) against {} ({})",
            ours.provenance.framework,
            candidate.path().display(),
            theirs.provenance.framework,
            reference.path().display(),
        ),
        stages,
        coverage,
        explanations: Vec::new(),
        on_gpu: None,
        notes,
    })
}

/// Where two runs part, within tolerance or not.
fn first_difference(stages: &[StageResult]) -> String {
    match stages.iter().find(|result| result.metrics.unequal > 0) {
        None => "no stage differs".into(),
        Some(first) => format!(
            "first stage that differs: {} ({} of {} elements, relative Frobenius {:.1e})",
            first.stage,
            first.metrics.unequal,
            first.metrics.elements,
            first.metrics.relative_frobenius,
        ),
    }
}
