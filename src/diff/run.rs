//! The walk over the steps: both modes side by side, every selected stage judged.

use super::check;
use super::lane::{Lane, Value};
use super::outcome::{OracleErrors, StageResult, Verdict};
use super::reference::Recordings;
use super::witness::{Testimony, Witness};
use super::{Event, Options};
use crate::backend::{Backend, Device, Fp64};
use crate::case::{Case, Mode, ResolvedTolerance, ToleranceContext};
use crate::compare::{
    Budget, Flips, Measure, Measuring, Metrics, Spec, Statistics, compare, compare_statistics,
    unequal,
};
use crate::error::Result;
use crate::golden::{Golden, Reference};
use crate::op::ErrorBound;
use crate::plan::{Plan, PlanDifference, StageId};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

/// Comparisons that may be under way while later steps are sent to the device.
const UNDER_WAY: usize = 64;

/// A candidate's run in one or both modes.
pub(super) struct Run<'a> {
    pub(super) case: &'a Case,
    pub(super) options: &'a Options,
    pub(super) golden: &'a Golden,
    pub(super) device: Device,
    /// Whether the reference comes from the device's own kernels, so that results can be exact.
    pub(super) same_kernels: bool,
    pub(super) plan: &'a Plan,
    pub(super) layers: usize,
    pub(super) recordings: &'a Recordings<'a>,
    pub(super) selected: &'a BTreeSet<usize>,
    pub(super) plan_differences: &'a BTreeMap<StageId, PlanDifference>,
    pub(super) stages: Vec<StageResult>,
}

/// The witness, and where it parts from the candidate.
pub(super) struct Parted<'a> {
    pub(super) parts: BTreeMap<StageId, PlanDifference>,
    pub(super) witness: Witness<'a>,
}

/// What one mode runs.
struct ModeLane<'a, B: Backend> {
    mode: Mode,
    lane: Lane<'a, B>,
    /// The same in fp64.
    oracle: Option<Lane<'a, Fp64>>,
}

/// A step's result in one mode.
struct Computed<A> {
    value: A,
    /// The same, brought here, if a budget or the oracle asks.
    found: Option<Tensor>,
    error_bound: Option<ErrorBound>,
    exact: Option<Tensor>,
}

/// What a step is compared with.
enum Recorded<A> {
    /// All of it, here and where the backend computes.
    Full { value: Tensor, array: A },
    /// Statistics of it.
    Statistics(Statistics),
}

/// What a run walks on.
struct Walk<'w, B> {
    backend: &'w B,
    /// The run's plan as the backend computes it.
    plan: &'w Plan,
    /// Whether any step is judged by its budget.
    budgets: bool,
}

/// A stage whose comparison is under way.
struct Pending {
    index: usize,
    mode: Mode,
    resolved: ResolvedTolerance,
    shape: Vec<usize>,
    oracle: Option<OracleErrors>,
    metrics: Measuring,
}

impl<'a> Run<'a> {
    /// Runs the steps and judges those that are selected. `plan` is the run's plan as the backend
    /// computes it.
    pub(super) fn steps<B: Measure>(
        &mut self,
        backend: &B,
        plan: &Plan,
        modes: &[Mode],
        tokens: &Tensor,
        witness: &mut Parted<'_>,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        let lanes = modes
            .iter()
            .map(|mode| self.lane(*mode, backend, plan, tokens));
        let mut lanes: Vec<ModeLane<'_, B>> = lanes.collect::<Result<_>>()?;
        let visited: BTreeSet<usize> = lanes.iter().flat_map(|lane| lane.lane.visited()).collect();
        let walk = Walk {
            backend,
            plan,
            budgets: self.selected.iter().any(|index| self.is_budgeted(*index)),
        };
        let mut under_way: VecDeque<Pending> = VecDeque::new();
        let most = if self.options.fail_fast { 0 } else { UNDER_WAY };
        on(Event::Started {
            case: &self.case.name,
            steps: visited.len(),
        });
        for index in visited {
            let id = plan.steps()[index].id.as_str();
            on(Event::Step { id });
            let begun = self.visit(index, &walk, &mut lanes, witness);
            under_way.extend(begun.map_err(|e| e.at_step(id))?);
            if self.settle(&mut under_way, most, on)?.is_break() {
                return Ok(());
            }
        }
        self.settle(&mut under_way, 0, on).map(|_| ())
    }

    /// Runs a step in every mode that needs it, and begins the comparisons of its results.
    fn visit<B: Measure>(
        &self,
        index: usize,
        walk: &Walk<'_, B>,
        lanes: &mut [ModeLane<'_, B>],
        witness: &mut Parted<'_>,
    ) -> Result<Vec<Pending>> {
        let backend = walk.backend;
        let selected = self.selected.contains(&index);
        let supplied = lanes.iter().any(|lane| lane.lane.is_supplied(index));
        let recorded = match supplied || selected {
            true => self.recorded(index, backend)?,
            false => None,
        };
        let params = match lanes.iter().any(|lane| lane.lane.runs(index)) {
            true => self.recordings.params(&walk.plan.steps()[index])?,
            false => Vec::new(),
        };
        let uploaded = params.iter().map(|param| backend.upload(param));
        let uploaded: Vec<B::Array> = uploaded.collect::<Result<_>>()?;
        let mut begun = Vec::new();
        for lane in lanes {
            let computed = match lane.lane.runs(index) {
                true => Some(self.compute(lane, index, walk, &params, &uploaded)?),
                false => None,
            };
            if let (Some(computed), Some(recorded), true) = (&computed, &recorded, selected) {
                begun.push(self.measure(index, lane.mode, backend, computed, recorded, witness)?);
            }
            lane.keep(index, recorded.as_ref(), computed);
        }
        Ok(begun)
    }

    fn lane<'l, B: Backend>(
        &self,
        mode: Mode,
        backend: &'l B,
        plan: &'l Plan,
        tokens: &Tensor,
    ) -> Result<ModeLane<'l, B>> {
        let known = match mode {
            Mode::Isolated => self.recordings.full(),
            Mode::Chained | Mode::Recorded => BTreeSet::new(),
        };
        let oracle = || Lane::new(plan, &Fp64, tokens.clone(), self.selected, &known);
        let tokens = backend.upload(tokens)?;
        Ok(ModeLane {
            mode,
            lane: Lane::new(plan, backend, tokens, self.selected, &known),
            oracle: self.options.oracle.then(oracle),
        })
    }

    /// What was recorded of a step, and, if it is to be read or compared there, where the backend
    /// computes.
    fn recorded<B: Backend>(
        &self,
        index: usize,
        backend: &B,
    ) -> Result<Option<Recorded<B::Array>>> {
        Ok(match self.recordings.value(index)? {
            Some(Reference::Full(value)) => Some(Recorded::Full {
                array: backend.upload(&value)?,
                value,
            }),
            Some(Reference::Statistics(statistics)) => Some(Recorded::Statistics(statistics)),
            None => None,
        })
    }

    fn compute<B: Backend>(
        &self,
        lane: &ModeLane<'_, B>,
        index: usize,
        walk: &Walk<'_, B>,
        params: &[Tensor],
        uploaded: &[B::Array],
    ) -> Result<Computed<B::Array>> {
        let value = lane.lane.run(index, uploaded)?;
        let oracle = lane.oracle.as_ref();
        let exact = oracle.map(|oracle| oracle.run(index, params)).transpose()?;
        // Later steps carry on the error bound of a value that is not recorded.
        let deviates = walk.budgets
            && lane.mode == Mode::Isolated
            && (self.is_budgeted(index) || !self.recordings.is_full(index));
        let found = match deviates || exact.is_some() {
            true => Some(walk.backend.download(&value)?),
            false => None,
        };
        let error_bound = match &found {
            Some(found) if deviates => {
                let confidence = self.options.confidence;
                lane.lane.error_bound(index, params, found, confidence)?
            }
            _ => None,
        };
        Ok(Computed {
            value,
            found,
            error_bound,
            exact,
        })
    }

    /// Judges what has been measured, in order, until no more than `most` comparisons are left to wait
    /// for; breaks off at a failure if that is asked.
    fn settle(
        &mut self,
        under_way: &mut VecDeque<Pending>,
        most: usize,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<ControlFlow<()>> {
        let is_due = |under_way: &VecDeque<Pending>| {
            let done = |pending: &Pending| matches!(pending.metrics, Measuring::Done(_));
            under_way.len() > most || under_way.front().is_some_and(done)
        };
        while is_due(under_way)
            && let Some(pending) = under_way.pop_front()
        {
            let result = self.judge(pending)?;
            on(Event::Judged(&result));
            let failed = result.verdict() == Verdict::Fail;
            self.stages.push(result);
            if failed && self.options.fail_fast {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What has to hold of a step in a mode; `budgeted` says whether it can have a budget.
    fn resolved(&self, index: usize, mode: Mode, budgeted: bool) -> ResolvedTolerance {
        let step = &self.plan.steps()[index];
        self.case.rules.resolve(&ToleranceContext {
            stage: &step.stage,
            device: Some(self.device),
            same_kernels: self.same_kernels,
            mode,
            dtype: step.numerics.out,
            budgeted,
            layers: self.layers,
        })
    }

    /// Whether a step is judged by its budget when it runs isolated.
    pub(super) fn is_budgeted(&self, index: usize) -> bool {
        let asked = || {
            let resolved = self.resolved(index, Mode::Isolated, true);
            resolved.tolerance.needs_budget() || self.options.explain
        };
        self.selected.contains(&index)
            && self.recordings.is_full(index)
            && self.options.modes.list().contains(&Mode::Isolated)
            && asked()
    }

    /// Whether flips of any step are counted.
    pub(super) fn counts_flips(&self) -> bool {
        self.selected.iter().any(|index| {
            let resolved = self.resolved(*index, Mode::Isolated, true);
            resolved.tolerance.counts_flips()
        })
    }

    /// Begins the comparison of a step's result with what was recorded.
    fn measure<B: Measure>(
        &self,
        index: usize,
        mode: Mode,
        backend: &B,
        computed: &Computed<B::Array>,
        recorded: &Recorded<B::Array>,
        witness: &mut Parted<'_>,
    ) -> Result<Pending> {
        let step = &self.plan.steps()[index];
        let resolved = self.resolved(index, mode, computed.error_bound.is_some());
        let manifest = || self.golden.path().join(Golden::MANIFEST);
        let mut oracle = None;
        let metrics = match recorded {
            Recorded::Full { value, array } => {
                let spec = Spec {
                    close: resolved.tolerance.close(),
                    budget: None,
                    vocab_shards: vocab_shards(&step.stage, self.golden),
                };
                if let (Some(exact), Some(found)) = (&computed.exact, &computed.found) {
                    oracle = Some(OracleErrors::of(exact, value, found)?);
                }
                let metrics = match (&computed.error_bound, &computed.found) {
                    (Some(ours), Some(candidate)) => {
                        let sides = Sides {
                            reference: value,
                            candidate,
                            ours,
                        };
                        let metrics = self.compare_within(index, &sides, &resolved, spec, witness);
                        metrics.map(Measuring::done)
                    }
                    _ => backend.measure(array, &computed.value, &spec),
                };
                metrics.map_err(|e| e.in_file(manifest()))?
            }
            Recorded::Statistics(statistics) => {
                let candidate = backend.download(&computed.value)?;
                let metrics = compare_statistics(statistics, &candidate);
                let file = self.golden.file_of(&step.stage);
                Measuring::done(metrics.map_err(|e| e.in_file(file))?)
            }
        };
        Ok(Pending {
            index,
            mode,
            resolved,
            shape: self.recordings.shape(index).to_vec(),
            oracle,
            metrics,
        })
    }

    fn judge(&self, pending: Pending) -> Result<StageResult> {
        let index = pending.index;
        let step = &self.plan.steps()[index];
        let metrics = pending.metrics.finish();
        let mut metrics = metrics.map_err(|e| e.at_step(step.id.as_str()))?;
        // A NaN that the candidate's own bias made of the recorded value is the candidate's.
        if metrics.non_finite.reference_nans > 0 && self.recordings.is_full(index) {
            let recorded = self.recordings.nans(index)?;
            let own = metrics.non_finite.reference_nans.saturating_sub(recorded);
            metrics.non_finite.reference_nans -= own;
            metrics.non_finite.disagreements += own;
        }
        check::reference(&metrics.non_finite, self.golden, &step.stage)?;
        Ok(StageResult {
            stage: step.stage.clone(),
            mode: pending.mode,
            device: Some(self.device),
            dtype: step.numerics.out,
            shape: pending.shape,
            checks: pending.resolved.tolerance.judge(&metrics),
            metrics,
            resolved: pending.resolved,
            plan_difference: self.plan_differences.get(&step.stage).cloned(),
            completed: self.recordings.completion(index),
            oracle: pending.oracle,
        })
    }

    /// Compares within the budget of both sides, and counts flips if they are bounded. Where both
    /// sides compute the same formula with other roundings, it is the witness's elements that are
    /// counted.
    fn compare_within(
        &self,
        index: usize,
        sides: &Sides<'_>,
        resolved: &ResolvedTolerance,
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
            let error_bound = testimony.error_bound.clone();
            self.recordings.completed(index, error_bound, confidence)
        });
        let theirs = theirs.transpose()?;
        let theirs = theirs.as_ref().unwrap_or(sides.ours);
        let budget = Budget::new(sides.ours, theirs, confidence);
        let spec = Spec {
            budget: Some(budget.allowed()),
            ..spec
        };
        let mut metrics = compare(sides.reference, sides.candidate, &spec)?;
        if resolved.tolerance.counts_flips() {
            let same_formula = part.is_some_and(|part| !part.formula);
            metrics.flips = match testimony.filter(|_| same_formula) {
                Some(Testimony {
                    recorded,
                    value: Some(value),
                    error_bound,
                }) => {
                    let unequal = unequal(&recorded, &value)?;
                    Flips::new(unequal, &recorded, &error_bound, &error_bound)?
                }
                _ => Flips::new(metrics.unequal, sides.reference, sides.ours, theirs)?,
            };
        }
        Ok(metrics)
    }
}

/// Two values of a step that are to be the same.
struct Sides<'a> {
    reference: &'a Tensor,
    candidate: &'a Tensor,
    ours: &'a ErrorBound,
}

impl<B: Backend> ModeLane<'_, B> {
    /// Isolated lanes go on with what was recorded, wherever it was.
    fn keep(
        &mut self,
        index: usize,
        recorded: Option<&Recorded<B::Array>>,
        computed: Option<Computed<B::Array>>,
    ) {
        let given = recorded.filter(|_| self.mode == Mode::Isolated);
        let (exact, value) = match computed {
            Some(computed) => (
                computed.exact,
                Some(Value::computed(computed.value, computed.error_bound)),
            ),
            None => (None, None),
        };
        let (given, array) = match given {
            Some(Recorded::Full { value, array }) => (Some(value.clone()), Some(array.clone())),
            _ => (None, None),
        };
        self.lane.keep(index, array.map(Value::given).or(value));
        if let Some(oracle) = &mut self.oracle {
            oracle.keep(index, given.or(exact).map(Value::given));
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
