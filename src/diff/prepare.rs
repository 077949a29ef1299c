//! Before a run: whether golden, model and case fit together, and what is compared.

use super::align::{AlignedStage, Alignment};
use super::inferred::Inference;
use super::judge::Judge;
use super::on_cuda::OnCuda;
use super::stretch::Stretch;
use super::{Candidate, Options};
use crate::arch::{ModelConfig, Role, SettingDifference};
use crate::backend::{AnyBackend, Gpu};
use crate::case::{Case, Mode};
use crate::checkpoint::Weights;
use crate::error::{BadInput, Result};
use crate::exec;
use crate::golden::Golden;
use crate::op::Op;
use crate::plan::{Arithmetic, Plan, PlanDifference, StageId, Step};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// A comparison of a model with a golden, ready to run.
pub(super) struct Prepared<'a> {
    pub(super) case: &'a Case,
    pub(super) golden: &'a Golden,
    /// The candidate's weights, of the vocabulary that both sides have.
    pub(super) weights: Box<dyn Weights + 'a>,
    pub(super) options: &'a Options,
    /// The modes that can run.
    pub(super) modes: Vec<Mode>,
    /// What plans start from.
    pub(super) start: [(StageId, Tensor); 2],
    /// The shape of every value.
    pub(super) shapes: HashMap<StageId, Vec<usize>>,
    /// The arithmetic that the model is run in.
    pub(super) arithmetic: Arithmetic,
    /// The model in it.
    pub(super) candidate: Side<'a>,
    /// The model in the reference's arithmetic.
    pub(super) reference: Side<'a>,
    /// Where the two differ.
    pub(super) differences: BTreeMap<StageId, PlanDifference>,
    /// For every step that a recorded value is compared with, where the two differ on the way to it.
    pub(super) stretches: HashMap<StageId, Stretch>,
    pub(super) judge: Judge<'a>,
    /// Whether the reference's attention may have been one kernel, whose roundings are those of no plan.
    pub(super) may_fuse_attention: bool,
    /// A run on a GPU, if that is asked.
    pub(super) on_cuda: Option<OnCuda<'a>>,
    /// What a reader should know.
    pub(super) notes: Vec<String>,
}

/// The model in one arithmetic, and what was recorded of its steps.
pub(super) struct Side<'a> {
    pub(super) plan: Plan,
    pub(super) alignment: Alignment<'a>,
}

impl<'a> Prepared<'a> {
    /// # Errors
    /// If an input is malformed, golden, model and case do not fit together, or nothing is left to
    /// compare.
    pub(super) fn new(
        case: &'a Case,
        golden: &'a Golden,
        candidate: &'a Candidate,
        options: &'a Options,
    ) -> Result<Self> {
        let mut notes = same_model(golden, candidate)?;
        let manifest = golden.manifest();
        candidate.check()?;
        let tokens = golden.tokens()?;
        let rows = shared_vocabulary(golden, candidate, &mut notes);
        let (model, weights) = candidate.with_vocabulary(rows)?;
        let extents = [tokens.shape()[0], tokens.shape()[1]];
        let start = exec::start(&tokens, golden.positions()?)?;
        let reference = |arithmetic: &Arithmetic| -> Result<Side<'a>> {
            let plan = candidate.plan(&model, arithmetic)?;
            let gpu = manifest.provenance.gpu.as_ref();
            let plan = match gpu.and_then(Gpu::capability) {
                Some(capability) => plan.on_tensor_cores(capability),
                None => plan,
            };
            let shapes = plan.shapes(extents)?;
            Ok(Side {
                alignment: Alignment::new(golden, &plan, &shapes),
                plan,
            })
        };
        let inference = Inference {
            side: &reference,
            weights: weights.as_ref(),
            start: &start,
            padding: golden.padding(),
            on_gpu: manifest.provenance.gpu.is_some(),
        };
        let (theirs, inferred) = inference.complete(manifest.arithmetic)?;
        notes.extend(inferred);
        notes.extend(sequences_of(golden, &theirs)?);
        if matches!(options.backend, AnyBackend::Cpu(_)) {
            notes.extend(reduced_products_of(golden));
        }
        let arithmetic = candidate.arithmetic(case, &theirs);
        let plan = candidate.plan(&model, &arithmetic)?;
        rules_match(case, &plan)?;
        rules_apply(case, &plan, options, &mut notes)?;
        let as_recorded = manifest.model.with_vocab_size(rows);
        let as_recorded = as_recorded.plan(plan.dtype(), &theirs)?;
        let shapes = plan.shapes(extents);
        let shapes = shapes.map_err(|e| e.in_file(manifest_of(golden)))?;
        let alignment = Alignment::new(golden, &plan, &shapes);
        notes.extend(other_types(&alignment));
        let modes = modes(golden, &alignment, options, &mut notes)?;
        let on_cuda = match &options.backend {
            AnyBackend::Cpu(_) => None,
            AnyBackend::Cuda(cuda) => Some(OnCuda::new(cuda, &plan, &arithmetic, golden)),
        };
        notes.extend(on_cuda.as_ref().and_then(OnCuda::note));
        let stretches = |differences: &BTreeMap<StageId, PlanDifference>| {
            let ends = plan.steps().iter().map(|step| &step.id);
            let ends = ends.filter(|id| alignment.of(id).is_some());
            Stretch::all(&plan, ends, &alignment.full(), differences)
        };
        let judge = Judge {
            rules: &case.rules,
            options,
            device: Some(options.backend.device()),
            same_kernels: on_cuda.as_ref().is_some_and(OnCuda::is_comparable),
            model: &candidate.model,
            stretches: stretches(&plan.differences(&as_recorded)),
        };
        let reference = reference(&theirs)?;
        let differences = plan.differences(&reference.plan);
        let mut softmaxes = reference
            .plan
            .steps()
            .iter()
            .filter(|step| step.op.is_softmax());
        let are_hidden = softmaxes.all(|step| reference.alignment.of(&step.id).is_none());
        let may_fuse_attention = are_hidden && manifest.provenance.may_fuse_attention();
        if may_fuse_attention && plan.dtype().is_half() {
            notes.push(
                "the reference may have run attention as one kernel: mismatches are not counted in what comes of it, \
                 which is held to rounding alone"
                    .into(),
            );
        }
        Ok(Self {
            case,
            golden,
            weights,
            options,
            modes,
            start,
            shapes,
            arithmetic,
            stretches: stretches(&differences),
            differences,
            candidate: Side { plan, alignment },
            reference,
            judge,
            may_fuse_attention,
            on_cuda,
            notes,
        })
    }

    /// The recorded stages that are judged.
    pub(super) fn selected(&self) -> impl Iterator<Item = &AlignedStage<'a>> {
        let stages = self.candidate.alignment.iter();
        stages.filter(|stage| self.judge.is_selected(stage))
    }
}

/// The modes that can run of those that are asked for: a stage can be fed with recorded values only.
fn modes(
    golden: &Golden,
    alignment: &Alignment<'_>,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Vec<Mode>> {
    let mut modes = options.modes.list().to_vec();
    // A choice of experts alone is no input that other stages could run on.
    let is_input = |stage: &AlignedStage<'_>| {
        let role = golden.manifest().model.role(stage.stage());
        stage.is_full() && role != Some(Role::Choice)
    };
    if !alignment.iter().any(is_input) && modes.contains(&Mode::Isolated) {
        modes.retain(|mode| *mode != Mode::Isolated);
        if modes.is_empty() {
            let expected = "recorded values to feed stages with";
            let fault = BadInput::new(manifest_of(golden), expected, "statistics only");
            return Err(fault.remedy("use --mode chained").into());
        }
        notes.push("isolated mode left out: the golden holds statistics only".into());
    }
    let mut stages = alignment.iter();
    if !stages.any(|stage| options.stages.matches(stage.stage())) {
        let expected = format!("a recorded stage that matches {}", options.stages);
        return Err(BadInput::new(manifest_of(golden), expected, "none").into());
    }
    Ok(modes)
}

/// Checks that golden and model are of one architecture, size and type. Returns what differs
/// besides.
fn same_model(golden: &Golden, candidate: &Candidate) -> Result<Vec<String>> {
    let manifest = golden.manifest();
    let config = candidate.settings();
    let [ours, theirs] = [&candidate.model, &manifest.model].map(ModelConfig::architecture);
    if ours != theirs {
        let expected = format!("{theirs}, as the golden is");
        let fault = BadInput::new(config, expected, ours.to_string()).at("architecture");
        let remedy = "compare the model with a golden of its own architecture";
        return Err(fault.remedy(remedy).into());
    }
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
        let remedy = format!(
            "run it cast with --dtype {0}, as from_pretrained(dtype=…) does, or compare it with a golden \
             in {1}",
            manifest.dtype, candidate.dtype
        );
        return Err(fault.remedy(remedy).into());
    }
    let vocabulary = candidate.model.with_vocab_size(manifest.model.vocab_size());
    let differences = vocabulary.differences(&manifest.model);
    let notes = differences.iter().map(|d| {
        format!(
            "{} says {} {}, the reference has {}",
            candidate.settings_name(),
            d.setting,
            d.ours,
            d.theirs
        )
    });
    let notes = notes.chain(ignored_keys(golden));
    Ok(notes.chain(candidate.notes.iter().cloned()).collect())
}

/// How many tokens both sides know. Every side pads its vocabulary as it likes.
fn shared_vocabulary(golden: &Golden, candidate: &Candidate, notes: &mut Vec<String>) -> usize {
    let [ours, theirs] = [&candidate.model, &golden.manifest().model].map(ModelConfig::vocab_size);
    if ours != theirs {
        notes.push(format!(
            "vocabulary of {ours} rows, the reference's of {theirs}: compared on the {} that both have",
            ours.min(theirs)
        ));
    }
    ours.min(theirs)
}

/// What cannot be said of a reference whose products ran in a type of their own.
fn reduced_products_of(golden: &Golden) -> Option<String> {
    let manifest = golden.manifest();
    let reduced = manifest.provenance.reduced_products(manifest.dtype)?;
    Some(format!(
        "the reference ran its products {reduced}, this model runs them in {}: what comes of them is held to \
         {}'s relative tolerances, not to rounding",
        manifest.dtype,
        reduced.as_precise_as()
    ))
}

/// Stages that the reference computed in other types than the model does, where its products ran in the run's own.
fn other_types(alignment: &Alignment<'_>) -> Vec<String> {
    let stages = alignment.iter();
    let others = stages.filter(|stage| !stage.is_of_one_type() && !stage.is_of_reduced_products());
    let note = |stage: &AlignedStage<'_>| {
        format!(
            "{} was recorded in {} and is computed in {}: held to relative tolerances, not to rounding",
            stage.stage(),
            stage.recorded_type(),
            stage.dtype
        )
    };
    others.map(note).collect()
}

/// What the golden's rows hold besides its sequences, if they do.
fn sequences_of(golden: &Golden, arithmetic: &Arithmetic) -> Result<Option<String>> {
    let Some(sequences) = golden.sequences() else {
        return Ok(None);
    };
    let manifest = golden.manifest();
    let is_megatron = matches!(arithmetic, Arithmetic::Megatron(_));
    let plan = manifest.model.plan(manifest.dtype, arithmetic)?;
    let has_alibi =
        |step: &Step| matches!(&step.op, Op::AttentionScores(scores) if scores.alibi.is_some());
    if is_megatron && !sequences.is_left_aligned() && plan.steps().iter().any(has_alibi) {
        let expected = "sequences that begin with their rows: Megatron's ALiBi counts columns";
        let found = "padding or other sequences before some";
        let fault = BadInput::new(manifest_of(golden), expected, found);
        let remedy = "dump rows that are padded at their end";
        return Err(fault.at("attention_mask").remedy(remedy).into());
    }
    Ok(Some(sequences.to_string()))
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
fn rules_match(case: &Case, plan: &Plan) -> Result<()> {
    let stages = plan.stages();
    for rule in &case.rules.rules {
        if !stages.iter().any(|stage| rule.stages.matches(stage)) {
            let expected = format!(
                "a pattern that matches one of the model's {} stages",
                stages.len()
            );
            let fault = BadInput::new(&rule.origin, expected, format!("\"{}\"", rule.stages));
            let example = stages.iter().find(|stage| stage.layer().is_some());
            let remedy = example.map(|stage| format!("stages are named like {stage}; "));
            let remedy = remedy.unwrap_or_default() + "`parity inspect` lists them";
            return Err(fault.remedy(remedy).into());
        }
    }
    Ok(())
}

/// A bound that nothing can be held to is a mistake, too: mismatches are counted of half types, and budgets are
/// of stages on the reference's own inputs.
fn rules_apply(case: &Case, plan: &Plan, options: &Options, notes: &mut Vec<String>) -> Result<()> {
    for rule in &case.rules.rules {
        let tolerance = &rule.tolerance;
        let fault = |expected: &str, found: String| {
            let fault = BadInput::new(&rule.origin, expected, found);
            fault.at(rule.stages.to_string())
        };
        let counts = tolerance.counts_flips() || tolerance.holds_means_to_rounding();
        if counts && !plan.dtype().is_half() {
            let expected = "flips and stat_rounding of a half-precision model";
            let fault = fault(expected, format!("one in {}", plan.dtype()));
            return Err(fault.remedy("hold it to rounding").into());
        }
        if tolerance.needs_budget() && rule.mode.is_none() {
            let modes = options.modes.list();
            if !modes.contains(&Mode::Isolated) {
                let expected =
                    "rounding, stat_rounding and flips in isolated mode, where inputs are the same";
                let fault = fault(expected, "chained mode".into());
                return Err(fault.remedy("use --mode isolated, or another bound").into());
            }
            if modes.contains(&Mode::Chained) {
                notes.push(format!(
                    "{}: holds of isolated stages; chained ones have no budget and are held to what else applies",
                    rule.origin
                ));
            }
        }
    }
    Ok(())
}

fn manifest_of(golden: &Golden) -> PathBuf {
    golden.path().join(Golden::MANIFEST)
}
