//! Whether golden, model and case fit together.

use super::Candidate;
use crate::case::Case;
use crate::compare::NonFinite;
use crate::error::{BadInput, Result};
use crate::golden::Golden;
use crate::model::SettingDifference;
use crate::plan::{Plan, StageId};

/// Checks that golden and model are of one architecture, size and type. Returns what differs
/// besides.
pub(super) fn same_model(golden: &Golden, candidate: &Candidate) -> Result<Vec<String>> {
    golden.check_runs_without_inputs()?;
    let manifest = golden.manifest();
    let config = candidate.settings();
    let differences = candidate.model.differences(&manifest.model);
    if !candidate.model.same_structure(&manifest.model) {
        let list = |pick: fn(&SettingDifference) -> String| {
            differences.iter().map(pick).collect::<Vec<_>>().join(", ")
        };
        let expected = list(|d| format!("{} {}", d.setting, d.theirs));
        let found = list(|d| format!("{} {}", d.setting, d.ours));
        let fault = BadInput::new(config, format!("the golden's {expected}"), found);
        return Err(fault
            .remedy("compare the model with a golden of the same size")
            .into());
    }
    if candidate.dtype != manifest.dtype {
        let expected = format!("a model in {}, as the golden is", manifest.dtype);
        let fault = BadInput::new(config, expected, candidate.dtype.to_string()).at("dtype");
        return Err(fault
            .remedy("convert the checkpoint without changing its type")
            .into());
    }
    let notes = differences.iter().map(|d| {
        format!(
            "config.json says {} {}, the reference has {}",
            d.setting, d.ours, d.theirs
        )
    });
    Ok(notes.chain(ignored_keys(golden)).collect())
}

/// Says which of a golden's optional keys are not known here.
pub(super) fn ignored_keys(golden: &Golden) -> Option<String> {
    let keys = golden.ignored_keys();
    let note = || {
        let (manifest, keys) = (Golden::MANIFEST, keys.join(", "));
        format!("{manifest} has optional keys that this version does not know: {keys}")
    };
    (!keys.is_empty()).then(note)
}

/// A rule that matches nothing is a mistake that would go unseen.
pub(super) fn rules(case: &Case, plan: &Plan) -> Result<()> {
    let stages = plan.stages();
    for rule in &case.rules.rules {
        if !stages.iter().any(|stage| rule.stages.matches(stage)) {
            let expected = format!(
                "a pattern that matches one of the model's {} stages",
                stages.len()
            );
            let fault = BadInput::new(&rule.origin, expected, format!("\"{}\"", rule.stages));
            let remedy =
                "stages are named like h.0.self_attention.dense; `parity inspect` lists them";
            return Err(fault.remedy(remedy).into());
        }
    }
    Ok(())
}

/// A reference that is not a number proves nothing.
pub(super) fn reference(found: &NonFinite, golden: &Golden, stage: &StageId) -> Result<()> {
    if found.reference_nans == 0 {
        return Ok(());
    }
    let nans = format!("{} NaN", found.reference_nans);
    let fault = BadInput::new(golden.file_of(stage), "numbers in a reference", nans);
    let remedy = "the reference run was broken at this stage: dump it again, or leave the stage out with --stages";
    Err(fault.at(stage.as_str()).remedy(remedy).into())
}
