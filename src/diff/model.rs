//! A converted model against a golden.

use super::candidate::Candidate;
use super::check;
use super::explained::Explained;
use super::lane::{Lane, Value};
use super::outcome::{CaseOutcome, Coverage, OracleErrors, StageResult, Verdict};
use super::records::Records;
use super::reference::Recordings;
use super::witness::{Testimony, Witness};
use super::{Event, Options};
use crate::backend::{self, Backend, Oracle};
use crate::budget::{Budget, Deviation, Flips};
use crate::case::{Case, InForce, Mode, Situation};
use crate::compare::{Metrics, Spec, compare, compare_statistics, unequal};
use crate::error::{BadInput, Result};
use crate::golden::{Golden, Reference};
use crate::plan::{Departure, Plan, StageId};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroUsize;

/// Runs a case and judges every stage that the golden holds.
///
/// Weights are asked for when a step runs and dropped after; values are dropped after their last
/// use. Both modes run side by side, so that weights are read once.
///
/// # Errors
/// If an input is malformed or golden and model do not fit together. That they differ is no error.
pub fn diff(case: &Case, options: &Options, on: &mut dyn FnMut(Event<'_>)) -> Result<CaseOutcome> {
    backend::open(options.device)?;
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
    let backend = backend::open(options.device)?;
    let backend = backend.as_ref();
    let mut notes = check::same_model(golden, candidate)?;
    let manifest = golden.manifest();
    let theirs = manifest.arithmetic;
    let arithmetic = candidate.arithmetic(case, &theirs);
    let plan = candidate.plan(&arithmetic)?;
    candidate.check()?;
    check::rules(case, &plan)?;
    let departures = plan.departures(&manifest.model.plan(plan.dtype(), &theirs)?);
    let tokens = golden.tokens()?;
    let manifest_path = golden.path().join(Golden::MANIFEST);
    let extents = [tokens.shape()[0], tokens.shape()[1]];
    let shapes = plan.shapes(extents);
    let shapes = shapes.map_err(|e| e.in_file(&manifest_path))?;
    let weights = candidate.weights.as_ref();
    let records = Records::of(golden);
    let recordings = Recordings::new(&records, &plan, weights, backend, &shapes);

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
    let mut run = Run {
        case,
        options,
        golden,
        backend,
        plan: &plan,
        layers: candidate.model.layers(),
        recordings: &recordings,
        selected: &selected,
        departures: &departures,
        stages: Vec::new(),
    };

    // The reference's arithmetic on this model: where it is another one, and budgets are asked for.
    let witness_plan = candidate.plan(&theirs)?;
    let parts = plan.departures(&witness_plan);
    let witness_shapes = witness_plan.shapes(extents)?;
    let of_witness = Recordings::new(&records, &witness_plan, weights, backend, &witness_shapes);
    let asked: BTreeSet<&StageId> = recordings
        .iter()
        .filter(|(index, stage)| parts.contains_key(*stage) && run.is_budgeted(*index))
        .map(|(_, stage)| stage)
        .collect();
    let confidence = options.confidence;
    let witness = Witness::new(
        &witness_plan,
        &of_witness,
        backend,
        &tokens,
        &asked,
        confidence,
        run.counts_flips(),
    );
    let mut witness = Parted { parts, witness };
    run.steps(&modes, &tokens, &mut witness, on)?;
    let stages = run.stages;
    on(Event::Finished);
    let explained = Explained {
        plan: &witness_plan,
        recordings: &of_witness,
        weights,
        tokens: &tokens,
        parts: &witness.parts,
        backend,
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
    let computed = plan.steps().iter().filter(|step| !step.op.rearranges());
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
            options.device,
            manifest.provenance.framework,
            theirs,
            manifest.provenance.device,
        ),
        stages,
        coverage,
        explanations,
        notes,
    })
}

struct Run<'a> {
    case: &'a Case,
    options: &'a Options,
    golden: &'a Golden,
    backend: &'a dyn Backend,
    plan: &'a Plan,
    layers: usize,
    recordings: &'a Recordings<'a>,
    selected: &'a BTreeSet<usize>,
    departures: &'a BTreeMap<StageId, Departure>,
    stages: Vec<StageResult>,
}

/// The witness, and where it parts from the candidate.
struct Parted<'a> {
    parts: BTreeMap<StageId, Departure>,
    witness: Witness<'a>,
}

/// What one mode runs.
struct ModeLane<'a> {
    mode: Mode,
    lane: Lane<'a>,
    /// The same in fp64.
    oracle: Option<Lane<'a>>,
}

/// A step's result in one mode.
struct Computed<'a> {
    value: &'a Tensor,
    deviation: Option<&'a Deviation>,
    exact: Option<&'a Tensor>,
}

impl<'a> Run<'a> {
    fn steps(
        &mut self,
        modes: &[Mode],
        tokens: &Tensor,
        witness: &mut Parted<'_>,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        let lanes = modes.iter().map(|mode| self.lane(*mode, tokens));
        let mut lanes: Vec<ModeLane<'_>> = lanes.collect();
        let visited: BTreeSet<usize> = lanes.iter().flat_map(|lane| lane.lane.visited()).collect();
        let budgets = self.selected.iter().any(|index| self.is_budgeted(*index));
        on(Event::Started {
            case: &self.case.name,
            steps: visited.len(),
        });
        for index in visited {
            let step = &self.plan.steps()[index];
            on(Event::Step {
                id: step.id.as_str(),
            });
            let selected = self.selected.contains(&index);
            let supplied = lanes.iter().any(|lane| lane.lane.is_supplied(index));
            let reference = match supplied || selected {
                true => self.recordings.value(index)?,
                false => None,
            };
            let runs = lanes.iter().any(|lane| lane.lane.runs(index));
            let params = match runs {
                true => self.recordings.params(step)?,
                false => Vec::new(),
            };
            for lane in &mut lanes {
                let (mut value, mut exact, mut deviation) = (None, None, None);
                if lane.lane.runs(index) {
                    let found = lane.lane.run(index, &params)?;
                    let oracle = lane.oracle.as_ref();
                    exact = oracle
                        .map(|oracle| oracle.run(index, &params))
                        .transpose()?;
                    let isolated = lane.mode == Mode::Isolated;
                    let judged = selected && self.is_budgeted(index);
                    if budgets && isolated && (judged || reference.is_none()) {
                        let confidence = self.options.confidence;
                        deviation = lane.lane.deviation(index, &params, &found, confidence)?;
                    }
                    value = Some(found);
                }
                if let (Some(value), Some(reference)) = (&value, &reference)
                    && selected
                {
                    let computed = Computed {
                        value,
                        deviation: deviation.as_ref(),
                        exact: exact.as_ref(),
                    };
                    let result = self.judge(index, lane.mode, &computed, reference, witness)?;
                    on(Event::Judged(&result));
                    let failed = result.verdict() == Verdict::Fail;
                    self.stages.push(result);
                    if failed && self.options.fail_fast {
                        return Ok(());
                    }
                }
                lane.keep(index, reference.as_ref(), value, deviation, exact);
            }
        }
        Ok(())
    }

    fn lane(&self, mode: Mode, tokens: &Tensor) -> ModeLane<'a> {
        let known = match mode {
            Mode::Isolated => self.recordings.full(),
            Mode::Chained | Mode::Recorded => BTreeSet::new(),
        };
        let lane = |backend| Lane::new(self.plan, backend, tokens, self.selected, &known);
        ModeLane {
            mode,
            lane: lane(self.backend),
            oracle: self.options.oracle.then(|| lane(&Oracle)),
        }
    }

    /// What has to hold of a step in a mode; `budgeted` says whether it can have a budget.
    fn in_force(&self, index: usize, mode: Mode, budgeted: bool) -> InForce {
        let step = &self.plan.steps()[index];
        self.case.rules.resolve(&Situation {
            stage: &step.stage,
            device: Some(self.backend.device()),
            mode,
            dtype: step.numerics.out,
            budgeted,
            layers: self.layers,
        })
    }

    /// Whether a step is judged by its budget when it runs isolated.
    fn is_budgeted(&self, index: usize) -> bool {
        let in_force = || self.in_force(index, Mode::Isolated, true);
        self.selected.contains(&index)
            && self.recordings.is_full(index)
            && self.options.modes.list().contains(&Mode::Isolated)
            && in_force().tolerance.needs_budget()
    }

    /// Whether flips of any step are counted.
    fn counts_flips(&self) -> bool {
        self.selected.iter().any(|index| {
            let in_force = self.in_force(*index, Mode::Isolated, true);
            in_force.tolerance.counts_flips()
        })
    }

    fn judge(
        &self,
        index: usize,
        mode: Mode,
        computed: &Computed<'_>,
        reference: &Reference,
        witness: &mut Parted<'_>,
    ) -> Result<StageResult> {
        let step = &self.plan.steps()[index];
        let in_force = self.in_force(index, mode, computed.deviation.is_some());
        let candidate = computed.value;
        let manifest = || self.golden.path().join(Golden::MANIFEST);
        let (metrics, oracle) = match reference {
            Reference::Full(reference) => {
                let spec = Spec {
                    close: in_force.tolerance.close(),
                    budget: None,
                    vocab_shards: vocab_shards(&step.stage, self.golden),
                };
                let metrics = match computed.deviation {
                    None => compare(reference, candidate, &spec),
                    Some(ours) => {
                        let sides = Sides {
                            reference,
                            candidate,
                            ours,
                        };
                        self.compare_within(index, &sides, &in_force, spec, witness)
                    }
                };
                let metrics = metrics.map_err(|e| e.in_file(manifest()))?;
                let exact = computed.exact;
                let oracle = exact.map(|exact| OracleErrors::of(exact, reference, candidate));
                (metrics, oracle.transpose()?)
            }
            Reference::Statistics(statistics) => {
                let found = compare_statistics(statistics, candidate);
                let metrics = found.map_err(|e| e.in_file(self.golden.file_of(&step.stage)))?;
                (metrics, None)
            }
        };
        check::reference(&metrics.non_finite, self.golden, &step.stage)?;
        Ok(StageResult {
            stage: step.stage.clone(),
            mode,
            device: Some(self.backend.device()),
            dtype: step.numerics.out,
            shape: candidate.shape().to_vec(),
            judgements: in_force.tolerance.judge(&metrics),
            metrics,
            in_force,
            departure: self.departures.get(&step.stage).cloned(),
            completed: self.recordings.completion(index),
            oracle,
        })
    }

    /// Compares within the budget of both sides, and counts flips if they are bounded. Where both
    /// sides compute the same formula with other roundings, it is the witness's elements that are
    /// counted.
    fn compare_within(
        &self,
        index: usize,
        sides: &Sides<'_>,
        in_force: &InForce,
        spec: Spec<'_>,
        parted: &mut Parted<'_>,
    ) -> Result<Metrics> {
        let stage = &self.plan.steps()[index].stage;
        let confidence = self.options.confidence;
        let part = parted.parts.get(stage);
        let testimony = match part {
            Some(_) => parted.witness.at(stage)?,
            None => None,
        };
        let theirs = testimony.as_ref().map(|testimony| {
            let deviation = testimony.deviation.clone();
            self.recordings.completed(index, deviation, confidence)
        });
        let theirs = theirs.transpose()?;
        let theirs = theirs.as_ref().unwrap_or(sides.ours);
        let budget = Budget::of(sides.ours, theirs, confidence);
        let spec = Spec {
            budget: Some(budget.allowed()),
            ..spec
        };
        let mut metrics = compare(sides.reference, sides.candidate, &spec)?;
        if in_force.tolerance.counts_flips() {
            let same_formula = part.is_some_and(|part| !part.formula);
            metrics.flips = match testimony.filter(|_| same_formula) {
                Some(Testimony {
                    recorded,
                    value: Some(value),
                    deviation,
                }) => {
                    let unequal = unequal(&recorded, &value)?;
                    Flips::of(unequal, &recorded, &deviation, &deviation)?
                }
                _ => Flips::of(metrics.unequal, sides.reference, sides.ours, theirs)?,
            };
        }
        Ok(metrics)
    }
}

/// Two values of a step that are to be the same.
struct Sides<'a> {
    reference: &'a Tensor,
    candidate: &'a Tensor,
    ours: &'a Deviation,
}

impl ModeLane<'_> {
    /// Isolated lanes go on with what was recorded, wherever it was.
    fn keep(
        &mut self,
        index: usize,
        reference: Option<&Reference>,
        value: Option<Tensor>,
        deviation: Option<Deviation>,
        exact: Option<Tensor>,
    ) {
        let given = match (self.mode, reference) {
            (Mode::Isolated, Some(Reference::Full(reference))) => Some(reference),
            _ => None,
        };
        let given = || given.cloned().map(Value::given);
        let value = value.map(|value| Value::computed(value, deviation));
        self.lane.keep(index, given().or(value));
        if let Some(oracle) = &mut self.oracle {
            oracle.keep(index, given().or(exact.map(Value::given)));
        }
    }
}

/// Into how many slices the means of final logits are taken: as many as ranks made them.
fn vocab_shards(stage: &StageId, golden: &Golden) -> Option<NonZeroUsize> {
    let logits = stage.as_str() == "logits";
    logits
        .then(|| NonZeroUsize::new(golden.manifest().tensor_parallel()))
        .flatten()
}
