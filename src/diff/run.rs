//! The walk over the steps: both modes side by side, every selected stage judged.

use super::check;
use super::lane::{Lane, Value};
use super::outcome::{OracleErrors, StageResult, Verdict};
use super::reference::Recordings;
use super::witness::{Testimony, Witness};
use super::{Event, Options};
use crate::backend::{Backend, Oracle};
use crate::budget::{Budget, Deviation, Flips};
use crate::case::{Case, InForce, Mode, Situation};
use crate::compare::{Metrics, Spec, compare, compare_statistics, unequal};
use crate::error::Result;
use crate::golden::{Golden, Reference};
use crate::plan::{Departure, Plan, StageId};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

/// A candidate's run in one or both modes.
pub(super) struct Run<'a> {
    pub(super) case: &'a Case,
    pub(super) options: &'a Options,
    pub(super) golden: &'a Golden,
    pub(super) backend: &'a dyn Backend,
    pub(super) plan: &'a Plan,
    pub(super) layers: usize,
    pub(super) recordings: &'a Recordings<'a>,
    pub(super) selected: &'a BTreeSet<usize>,
    pub(super) departures: &'a BTreeMap<StageId, Departure>,
    pub(super) stages: Vec<StageResult>,
}

/// The witness, and where it parts from the candidate.
pub(super) struct Parted<'a> {
    pub(super) parts: BTreeMap<StageId, Departure>,
    pub(super) witness: Witness<'a>,
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
    /// Runs the steps and judges those that are selected.
    pub(super) fn steps(
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
                    if budgets && isolated && (judged || !self.recordings.is_full(index)) {
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
    pub(super) fn is_budgeted(&self, index: usize) -> bool {
        let asked = || {
            let in_force = self.in_force(index, Mode::Isolated, true);
            in_force.tolerance.needs_budget() || self.options.explain
        };
        self.selected.contains(&index)
            && self.recordings.is_full(index)
            && self.options.modes.list().contains(&Mode::Isolated)
            && asked()
    }

    /// Whether flips of any step are counted.
    pub(super) fn counts_flips(&self) -> bool {
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
                let mut metrics = metrics.map_err(|e| e.in_file(manifest()))?;
                // A NaN that the candidate's own bias made of the recorded value is the candidate's.
                if metrics.non_finite.reference_nans > 0 {
                    let recorded = self.recordings.nans(index)?;
                    let own = metrics.non_finite.reference_nans.saturating_sub(recorded);
                    metrics.non_finite.reference_nans -= own;
                    metrics.non_finite.disagreements += own;
                }
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
