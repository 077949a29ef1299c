//! A converted model against a golden.

use super::candidate::Candidate;
use super::outcome::{CaseOutcome, Coverage, StageResult, Verdict};
use super::reference::{Recorded, recorded};
use super::{Event, Options};
use crate::backend::{self, Backend};
use crate::case::{Case, Mode, Situation};
use crate::compare::{NonFinite, Spec, compare, compare_statistics};
use crate::error::{BadInput, Result};
use crate::golden::{Golden, Reference};
use crate::model::SettingDifference;
use crate::plan::{Departure, Plan, Schedule, StageId, Step};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;

/// Runs a case and judges every stage that the golden holds.
///
/// Weights are asked for when a step runs and dropped after; values are dropped after their last
/// use. Both modes run side by side, so that weights are read once.
///
/// # Errors
/// If an input is malformed or golden and model do not fit together. That they differ is no error.
pub fn diff(case: &Case, options: &Options, on: &mut dyn FnMut(Event<'_>)) -> Result<CaseOutcome> {
    let backend = backend::open(options.device)?;
    let golden = Golden::open(&case.golden)?;
    let candidate = Candidate::open(&case.model)?;
    let mut notes = check_same_model(&golden, &candidate)?;
    let theirs = golden.manifest().arithmetic;
    let arithmetic = candidate.arithmetic(case, &theirs);
    let plan = candidate.model.plan(candidate.dtype, &arithmetic)?;
    candidate.check()?;
    check_rules(case, &plan)?;
    let departures = plan.departures(&golden.manifest().model.plan(plan.dtype(), &theirs)?);
    let tokens = golden.tokens()?;
    let recorded = recorded(&plan, golden.manifest());
    let manifest_path = golden.path().join(Golden::MANIFEST);
    let shapes = plan.shapes([tokens.shape()[0], tokens.shape()[1]]);
    let shapes = shapes.map_err(|e| e.in_file(&manifest_path))?;

    let mut modes = options.modes.list().to_vec();
    if !recorded.values().any(Recorded::is_full) && modes.contains(&Mode::Isolated) {
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
    let selected: BTreeSet<usize> = recorded
        .iter()
        .filter(|(_, recorded)| options.stages.matches(&recorded.record.stage))
        .map(|(index, _)| *index)
        .collect();
    if selected.is_empty() {
        let expected = format!("a recorded stage that matches {}", options.stages);
        return Err(BadInput::new(manifest_path, expected, "none").into());
    }
    let mut run = Run {
        case,
        options,
        golden: &golden,
        candidate: &candidate,
        backend: backend.as_ref(),
        plan: &plan,
        shapes: &shapes,
        recorded: &recorded,
        selected: &selected,
        departures: &departures,
        stages: Vec::new(),
    };
    run.steps(&modes, &tokens, on)?;
    let stages = run.stages;
    on(Event::Finished);

    let held: HashSet<&StageId> = recorded.values().map(|r| &r.record.stage).collect();
    let judged: BTreeSet<&StageId> = stages.iter().map(|result| &result.stage).collect();
    let computed = plan.steps().iter().filter(|step| !step.op.rearranges());
    let computed: BTreeSet<&StageId> = computed.map(|step| &step.stage).collect();
    let missing = |stage: &&StageId| computed.contains(*stage) && !held.contains(*stage);
    let unrecorded = plan.stages().into_iter().filter(missing);
    let all = golden.manifest().stages.iter().map(|record| &record.stage);
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
            options.device,
            golden.manifest().provenance.framework,
            theirs,
            golden.manifest().provenance.device,
        ),
        stages,
        coverage,
        notes,
    })
}

struct Run<'a> {
    case: &'a Case,
    options: &'a Options,
    golden: &'a Golden,
    candidate: &'a Candidate,
    backend: &'a dyn Backend,
    plan: &'a Plan,
    shapes: &'a HashMap<StageId, Vec<usize>>,
    recorded: &'a BTreeMap<usize, Recorded<'a>>,
    selected: &'a BTreeSet<usize>,
    departures: &'a BTreeMap<StageId, Departure>,
    stages: Vec<StageResult>,
}

/// The part of the plan that one mode runs, and the values it still needs.
struct Lane {
    mode: Mode,
    schedule: Schedule,
    values: HashMap<StageId, Tensor>,
}

impl Run<'_> {
    fn steps(
        &mut self,
        modes: &[Mode],
        tokens: &Tensor,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        let mut lanes: Vec<Lane> = modes.iter().map(|mode| self.lane(*mode, tokens)).collect();
        let visited: BTreeSet<usize> = lanes
            .iter()
            .flat_map(|lane| lane.schedule.run.union(&lane.schedule.supply))
            .copied()
            .collect();
        on(Event::Started {
            case: &self.case.name,
            steps: visited.len(),
        });
        let plan = self.plan;
        for index in visited {
            let step = &plan.steps()[index];
            on(Event::Step {
                id: step.id.as_str(),
            });
            let supplied = lanes
                .iter()
                .any(|lane| lane.schedule.supply.contains(&index));
            let reference = match supplied || self.selected.contains(&index) {
                true => self.reference(index, step)?,
                false => None,
            };
            let runs = lanes.iter().any(|lane| lane.schedule.run.contains(&index));
            let params = match runs {
                true => self.params(step)?,
                false => Vec::new(),
            };
            let params: Vec<&Tensor> = params.iter().collect();
            for lane in &mut lanes {
                let candidate = lane.run(index, step, &params, self.backend)?;
                if let (Some(candidate), Some(reference)) = (&candidate, &reference)
                    && self.selected.contains(&index)
                {
                    let result = self.judge(index, step, lane.mode, candidate, reference)?;
                    on(Event::Judged(&result));
                    let failed = result.verdict() == Verdict::Fail;
                    self.stages.push(result);
                    if failed && self.options.fail_fast {
                        return Ok(());
                    }
                }
                lane.keep(index, step, candidate, reference.as_ref());
            }
        }
        Ok(())
    }

    fn lane(&self, mode: Mode, tokens: &Tensor) -> Lane {
        let full = self
            .recorded
            .iter()
            .filter(|(_, recorded)| recorded.is_full());
        let known = match mode {
            Mode::Isolated => full.map(|(index, _)| *index).collect(),
            Mode::Chained | Mode::Recorded => BTreeSet::new(),
        };
        Lane {
            mode,
            schedule: self.plan.schedule(self.selected, &known),
            values: HashMap::from([(StageId::TOKENS.into(), tokens.clone())]),
        }
    }

    fn params(&self, step: &Step) -> Result<Vec<Tensor>> {
        let params = step.params.iter();
        params
            .map(|param| self.candidate.weights.load(&param.name))
            .collect()
    }

    /// The recorded value of a step, in its form and of its shape.
    fn reference(&self, index: usize, step: &Step) -> Result<Option<Reference>> {
        let Some(recorded) = self.recorded.get(&index) else {
            return Ok(None);
        };
        let reference = recorded.value(
            self.golden,
            step,
            self.candidate.weights.as_ref(),
            self.backend,
        )?;
        if let Some(Reference::Full(value)) = &reference
            && value.shape() != self.shapes[&step.id]
        {
            let file = self.golden.file_of(&step.stage);
            let expected = format!("shape {:?}", self.shapes[&step.id]);
            let fault = BadInput::new(file, expected, format!("shape {:?}", value.shape()));
            return Err(fault.at(step.stage.as_str()).into());
        }
        Ok(reference)
    }

    fn judge(
        &self,
        index: usize,
        step: &Step,
        mode: Mode,
        candidate: &Tensor,
        reference: &Reference,
    ) -> Result<StageResult> {
        let device = Some(self.backend.device());
        let in_force = self.case.rules.resolve(&Situation {
            stage: &step.stage,
            device,
            mode,
            dtype: step.numerics.out,
            layers: self.candidate.model.layers(),
        });
        let metrics = match reference {
            Reference::Full(reference) => {
                let spec = Spec {
                    close: in_force.tolerance.close(),
                    vocab_shards: vocab_shards(&step.stage, self.golden),
                };
                let found = compare(reference, candidate, &spec);
                found.map_err(|e| e.in_file(self.golden.path().join(Golden::MANIFEST)))?
            }
            Reference::Statistics(statistics) => {
                let found = compare_statistics(statistics, candidate);
                found.map_err(|e| e.in_file(self.golden.file_of(&step.stage)))?
            }
        };
        check_reference(&metrics.non_finite, self.golden, &step.stage)?;
        Ok(StageResult {
            stage: step.stage.clone(),
            mode,
            device,
            dtype: step.numerics.out,
            shape: candidate.shape().to_vec(),
            judgements: in_force.tolerance.judge(&metrics),
            metrics,
            in_force,
            departure: self.departures.get(&step.stage).cloned(),
            completed: self.recorded[&index].completion(),
        })
    }
}

impl Lane {
    fn run(
        &self,
        index: usize,
        step: &Step,
        params: &[&Tensor],
        backend: &dyn Backend,
    ) -> Result<Option<Tensor>> {
        if !self.schedule.run.contains(&index) {
            return Ok(None);
        }
        let inputs: Vec<&Tensor> = step.inputs.iter().map(|id| &self.values[id]).collect();
        backend.run(step, &inputs, params).map(Some)
    }

    /// Keeps the value that later steps are to see, if any, and drops those that none will.
    fn keep(
        &mut self,
        index: usize,
        step: &Step,
        candidate: Option<Tensor>,
        reference: Option<&Reference>,
    ) {
        let value = match (self.mode, reference) {
            (Mode::Isolated, Some(Reference::Full(reference))) => Some(reference.clone()),
            _ => candidate,
        };
        if let Some(value) = value {
            self.values.insert(step.id.clone(), value);
        }
        let last_uses = &self.schedule.last_uses;
        self.values
            .retain(|id, _| last_uses.get(id).is_some_and(|last| *last > index));
    }
}

/// Checks that golden and model are of one architecture, size and type. Returns what differs
/// besides.
fn check_same_model(golden: &Golden, candidate: &Candidate) -> Result<Vec<String>> {
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
    Ok(notes.collect())
}

/// A rule that matches nothing is a mistake that would go unseen.
fn check_rules(case: &Case, plan: &Plan) -> Result<()> {
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

/// Into how many slices the means of final logits are taken: as many as ranks made them.
fn vocab_shards(stage: &StageId, golden: &Golden) -> Option<NonZeroUsize> {
    let logits = stage.as_str() == "logits";
    logits
        .then(|| NonZeroUsize::new(golden.manifest().tensor_parallel()))
        .flatten()
}

/// A reference that is not a number proves nothing.
pub(super) fn check_reference(found: &NonFinite, golden: &Golden, stage: &StageId) -> Result<()> {
    if found.reference_nans == 0 {
        return Ok(());
    }
    let nans = format!("{} NaN", found.reference_nans);
    let fault = BadInput::new(golden.file_of(stage), "numbers in a reference", nans);
    let remedy = "the reference run was broken at this stage: dump it again, or leave the stage out with --stages";
    Err(fault.at(stage.as_str()).remedy(remedy).into())
}
