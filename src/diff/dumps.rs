//! Two goldens against each other; no model is run.

use super::align::{AlignedStage, Recorded};
use super::growth::Growth;
use super::judge::{Computed, Judge};
use super::outcome::{CaseOutcome, Coverage, Incomparable, StageResult, Verdict};
use super::prepare::ignored_keys;
use super::stretch::Stretch;
use super::{Event, Options};
use crate::backend::Cpu;
use crate::case::{Mode, Rules};
use crate::dump::{PADDED, unpadded};
use crate::error::{BadInput, Result};
use crate::exec::start;
use crate::golden::{FileRecord, Golden, Reference, Sequences};
use crate::plan::StageId;
use crate::tensor::Tensor;

/// Compares what two goldens recorded, stage by stage in the reference's order.
///
/// Stages recorded in different variants (one with its bias, the other without) are not comparable and
/// are listed as unmatched.
///
/// # Errors
/// If a golden is malformed, or no stage is in both.
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
    let judge = Judge {
        rules,
        options,
        device: None,
        same_kernels: false,
        model: &theirs.model,
        stretches: Stretch::of_stages_alone(our_plan?.differences(&their_plan?)),
    };
    same_inputs(reference, candidate)?;
    let name = "dumps";
    on(Event::Started {
        case: name,
        steps: theirs.stages.len(),
    });
    let mut stages: Vec<StageResult> = Vec::new();
    let mut growth = Growth::default();
    let mut coverage = Coverage::default();
    let mut cut = 0;
    for record in &theirs.stages {
        let stage = &record.stage;
        on(Event::Step { id: stage.as_str() });
        let other = ours.stage(stage);
        let is_matched = other.is_some_and(|other| other.variant == record.variant);
        if is_matched && !options.stages.matches(stage) {
            continue;
        }
        let values = if is_matched {
            Values::of(reference, candidate, stage)?
        } else {
            Values::Unmatched
        };
        let (expected, found) = match values {
            Values::Both(expected, found, is_cut) => {
                cut += usize::from(is_cut);
                (expected, found)
            }
            Values::Incomparable(why) => {
                let stage = stage.clone();
                coverage.incomparable.push(Incomparable { stage, why });
                continue;
            }
            Values::Unmatched => {
                coverage.unmatched.push(stage.clone());
                continue;
            }
        };
        let aligned = AlignedStage::as_recorded(reference, record, record.dtype, found.shape());
        let computed = Computed::recorded(found);
        let pending = judge.begin(&aligned, Mode::Recorded, &expected, &computed, None, &Cpu)?;
        let mut result = judge.finish(pending)?;
        result.resolved = growth.tightened(result.resolved, result.dtype);
        result.checks = result.resolved.tolerance.judge(&result.metrics);
        growth.add(&result);
        on(Event::Judged(&result));
        let failed = result.verdict() == Verdict::Fail;
        stages.push(result);
        if failed && options.fail_fast {
            break;
        }
    }
    on(Event::Finished);
    let (unmatched, incomparable) = (coverage.unmatched, coverage.incomparable);
    let told = |stage: &StageId| {
        let incomparable = incomparable.iter().map(|of| &of.stage);
        unmatched
            .iter()
            .chain(incomparable)
            .any(|other| other == stage)
    };
    let of = Coverage::of(reference, &stages, &[Mode::Recorded], options);
    let mut coverage = Coverage {
        skipped: of
            .skipped
            .iter()
            .filter(|stage| !told(stage))
            .cloned()
            .collect(),
        unmatched,
        incomparable,
        ..of
    };
    if stages.is_empty() && coverage.incomparable.is_empty() {
        let path = candidate.path().join(Golden::MANIFEST);
        let expected = format!(
            "a stage that both goldens hold and {} matches",
            options.stages
        );
        return Err(BadInput::new(path, expected, "none").into());
    }
    let mut notes = vec![first_difference(&stages), growth.note(&stages)];
    if cut > 0 {
        notes.push(format!("{cut} stages {PADDED}"));
    }
    notes.extend(reference.sequences().map(Sequences::to_string));
    notes.extend([reference, candidate].into_iter().filter_map(ignored_keys));
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

/// Refuses runs on other tokens, sequences or positions.
fn same_inputs(reference: &Golden, candidate: &Golden) -> Result<()> {
    let refuse = |of: &FileRecord, what: &str| {
        let file = candidate.path().join(&of.file);
        let expected = format!("the {what} of {}", reference.path().display());
        let fault = BadInput::new(file, expected, "others");
        Err(fault
            .remedy(format!("dump both frameworks on the same {what}"))
            .into())
    };
    let ours = candidate.manifest();
    let tokens = &ours.tokens;
    let both = [candidate, reference];
    let [our_tokens, their_tokens] = both.map(Golden::tokens);
    let their_tokens = their_tokens?;
    if !our_tokens?.bits_equal(&their_tokens) {
        return refuse(tokens, "tokens");
    }
    if candidate.padding() != reference.padding() {
        return refuse(ours.attention_mask.as_ref().unwrap_or(tokens), "sequences");
    }
    let positions = both.map(|golden| Ok(start(&their_tokens, golden.positions()?)?[1].1.clone()));
    let [ours_at, theirs_at]: [Result<Tensor>; 2] = positions;
    if !ours_at?.bits_equal(&theirs_at?) {
        return refuse(ours.positions.as_ref().unwrap_or(tokens), "positions");
    }
    Ok(())
}

/// What both goldens recorded of a stage.
enum Values {
    /// Values, without what one of the two pads its rows with; and whether one does.
    Both(Recorded<Tensor>, Tensor, bool),
    /// Values that cannot be compared, and why.
    Incomparable(String),
    /// Not the candidate's values.
    Unmatched,
}

impl Values {
    fn of(reference: &Golden, candidate: &Golden, stage: &StageId) -> Result<Self> {
        let recorded = (reference.reference(stage)?, candidate.reference(stage)?);
        let (Some(expected), Some(Reference::Full(found))) = recorded else {
            return Ok(Self::Unmatched);
        };
        let expected = match expected {
            Reference::Full(expected) if expected.shape() != found.shape() => expected,
            same => return Ok(Self::Both(same.into(), found, false)),
        };
        let both = [expected, found];
        Ok(match unpadded(&both)? {
            Some([expected, found]) => Self::Both(Reference::Full(expected).into(), found, true),
            None => Self::Incomparable(format!(
                "shape {:?} in the reference, shape {:?} in the candidate",
                both[0].shape(),
                both[1].shape()
            )),
        })
    }
}

/// The first stage at which two runs differ, within tolerance or not.
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
