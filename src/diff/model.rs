//! A converted model against a golden.

use super::candidate::Candidate;
use super::check;
use super::explained::Explained;
use super::on_cuda::OnCuda;
use super::outcome::{CaseOutcome, Coverage, StageResult, Verdict};
use super::records::Records;
use super::reference::Recordings;
use super::run::{Parted, Run};
use super::witness::Witness;
use super::{Event, Options};
use crate::backend::{AnyBackend, Cpu, Device};
use crate::case::{Case, Mode};
use crate::error::{BadInput, Result};
use crate::golden::Golden;
use crate::plan::StageId;
use std::collections::{BTreeSet, HashSet};

/// Runs a case and judges every stage that the golden holds.
///
/// Weights are asked for when a step runs and dropped after; values are dropped after their last
/// use. Both modes run side by side, so that weights are read once.
///
/// # Errors
/// If an input is malformed or golden and model do not fit together. That they differ is no error.
pub fn diff(case: &Case, options: &Options, on: &mut dyn FnMut(Event<'_>)) -> Result<CaseOutcome> {
    let golden = Golden::open(&case.golden)?;
    let candidate = Candidate::open(&case.model)?;
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
    let mut notes = check::same_model(golden, candidate)?;
    let manifest = golden.manifest();
    let theirs = manifest.arithmetic;
    let arithmetic = candidate.arithmetic(case, &theirs);
    let plan = candidate.plan(&arithmetic)?;
    candidate.check()?;
    check::rules(case, &plan)?;
    let plan_differences = plan.differences(&manifest.model.plan(plan.dtype(), &theirs)?);
    let tokens = golden.tokens()?;
    let manifest_path = golden.path().join(Golden::MANIFEST);
    let extents = [tokens.shape()[0], tokens.shape()[1]];
    let shapes = plan.shapes(extents);
    let shapes = shapes.map_err(|e| e.in_file(&manifest_path))?;
    let weights = candidate.weights.as_ref();
    let records = Records::of(golden);
    let recordings = Recordings::new(&records, &plan, weights, &shapes);

    let mut modes = options.modes.list().to_vec();
    if recordings.full().is_empty() && modes.contains(&Mode::Isolated) {
        modes.retain(|mode| *mode != Mode::Isolated);
        if modes.is_empty() {
            let fault = BadInput::new(
                manifest_path,
                "recorded values to feed stages with",
                "statistics only",
            );
            return Err(fault.remedy("use --mode chained").into());
        }
        notes.push("isolated mode left out: the golden holds statistics only".into());
    }
    let selected: BTreeSet<usize> = recordings
        .iter()
        .filter(|(_, stage)| options.stages.matches(stage))
        .map(|(index, _)| index)
        .collect();
    if selected.is_empty() {
        let expected = format!("a recorded stage that matches {}", options.stages);
        return Err(BadInput::new(manifest_path, expected, "none").into());
    }
    let on_cuda = match &options.backend {
        AnyBackend::Cpu(_) => None,
        AnyBackend::Cuda(cuda) => Some(OnCuda::of(cuda, &plan, &arithmetic, manifest)),
    };
    let not_comparable = on_cuda.as_ref().map(|on_cuda| &on_cuda.not_comparable);
    notes.extend(not_comparable.filter(|all| !all.is_empty()).map(|all| {
        format!(
            "exactness not comparable, tolerances hold instead: {}",
            all.join("; ")
        )
    }));
    let mut run = Run {
        case,
        options,
        golden,
        device: options.backend.device(),
        same_kernels: not_comparable.is_some_and(Vec::is_empty),
        plan: &plan,
        model: &candidate.model,
        recordings: &recordings,
        selected: &selected,
        plan_differences: &plan_differences,
        stages: Vec::new(),
    };

    // The reference's arithmetic on this model: where it is another one, and budgets are asked for.
    let witness_plan = candidate.plan(&theirs)?;
    let parts = plan.differences(&witness_plan);
    let witness_shapes = witness_plan.shapes(extents)?;
    let of_witness = Recordings::new(&records, &witness_plan, weights, &witness_shapes);
    let asked: BTreeSet<&StageId> = recordings
        .iter()
        .filter(|(index, stage)| parts.contains_key(*stage) && run.is_budgeted(*index))
        .map(|(_, stage)| stage)
        .collect();
    let confidence = options.confidence;
    let witness = Witness::new(
        &witness_plan,
        &of_witness,
        &tokens,
        &asked,
        confidence,
        run.counts_flips(),
    );
    let mut witness = Parted { parts, witness };
    let on_gpu = match on_cuda {
        Some(on_cuda) => Some(on_cuda.run(&mut run, &modes, &tokens, &shapes, &mut witness, on)?),
        None => {
            run.steps(&Cpu, &plan, &modes, &tokens, &mut witness, on)?;
            None
        }
    };
    let stages = run.stages;
    on(Event::Finished);
    let explained = Explained {
        plan: &witness_plan,
        recordings: &of_witness,
        weights,
        tokens: &tokens,
        parts: &witness.parts,
        confidence,
    };
    let explanations = match options.explain {
        true => explained.failures(&stages, on)?,
        false => Vec::new(),
    };
    let failed = |mode: Mode| {
        let failed =
            |result: &StageResult| result.mode == mode && result.verdict() == Verdict::Fail;
        stages.iter().any(failed)
    };
    if options.explain && failed(Mode::Chained) && !failed(Mode::Isolated) {
        notes.push(
            match modes.contains(&Mode::Isolated) {
                true => {
                    "every stage holds on the reference's own inputs: what differs has accumulated"
                }
                false => "nothing is explained: causes are looked for in isolated mode",
            }
            .into(),
        );
    }

    let held: HashSet<&StageId> = recordings.iter().map(|(_, stage)| stage).collect();
    let judged: BTreeSet<&StageId> = stages.iter().map(|result| &result.stage).collect();
    let computed = plan
        .steps()
        .iter()
        .filter(|step| !step.op.locality().is_copy());
    let computed: BTreeSet<&StageId> = computed.map(|step| &step.stage).collect();
    let missing = |stage: &&StageId| computed.contains(*stage) && !held.contains(*stage);
    let unrecorded = plan.stages().into_iter().filter(missing);
    let all = manifest.stages.iter().map(|record| &record.stage);
    let coverage = Coverage {
        compared: judged.len(),
        unrecorded: unrecorded.cloned().collect(),
        unmatched: all.filter(|stage| !held.contains(stage)).cloned().collect(),
    };
    Ok(CaseOutcome {
        name: case.name.clone(),
        title: format!(
            "{} model in {} arithmetic on {} against {} ({}, {})",
            plan.dtype(),
            arithmetic,
            place(&options.backend),
            manifest.provenance.framework,
            theirs,
            manifest.provenance.device,
        ),
        stages,
        coverage,
        explanations,
        on_gpu,
        notes,
    })
}

/// Where a backend computes, in words: `cpu`, `cuda (NVIDIA H100)`.
fn place(backend: &AnyBackend) -> String {
    match backend {
        AnyBackend::Cpu(_) => Device::Cpu.to_string(),
        AnyBackend::Cuda(cuda) => format!("{} ({})", Device::Cuda, cuda.gpu().name),
    }
}
