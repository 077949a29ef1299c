//! The walk over the steps: the modes side by side, every selected stage judged.

use super::Event;
use super::align::Recorded;
use super::judge::{Computed, Pending};
use super::outcome::{StageResult, Verdict};
use super::prepare::Prepared;
use super::reference_run::ReferenceRun;
use super::routing::{Choices, Noise};
use crate::backend::{Backend, Fp64};
use crate::case::Mode;
use crate::compare::Measure;
use crate::error::Result;
use crate::exec::{Execution, Value, params_of};
use crate::op::{Confidence, Op, Operand, Route};
use crate::plan::{Plan, Step};
use crate::tensor::Tensor;
use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;

/// Comparisons that may be in flight while later steps are sent to the device.
const IN_FLIGHT: usize = 64;

/// A candidate's run.
///
/// Weights are asked for when a step runs and dropped after; values are dropped after their last
/// use. The modes run side by side, so that weights are read once.
pub(super) struct Run<'a, B: Measure> {
    prepared: &'a Prepared<'a>,
    backend: &'a B,
    /// The candidate's plan as the backend computes it.
    plan: &'a Plan,
    modes: Vec<ModeRun<'a, B>>,
    /// Whether any stage has a budget.
    has_budgets: bool,
    reference: ReferenceRun<'a>,
    in_flight: VecDeque<Pending<'a>>,
    results: Vec<StageResult>,
}

/// The run in one mode.
struct ModeRun<'a, B: Backend> {
    mode: Mode,
    backend: &'a B,
    execution: Execution<'a, B>,
    /// The same in fp64.
    oracle: Option<Execution<'a, Fp64>>,
    confidence: Confidence,
}

/// The parameters of a step, here and where the backend computes.
struct Params<A> {
    host: Vec<Tensor>,
    arrays: Vec<A>,
}

impl<'a, B: Measure> Run<'a, B> {
    /// `plan` is the candidate's plan as the backend computes it.
    pub(super) fn new(prepared: &'a Prepared<'a>, backend: &'a B, plan: &'a Plan) -> Result<Self> {
        let modes = prepared.modes.iter();
        let modes = modes.map(|mode| ModeRun::new(*mode, prepared, backend, plan));
        Ok(Self {
            prepared,
            backend,
            plan,
            modes: modes.collect::<Result<_>>()?,
            has_budgets: prepared
                .selected()
                .any(|stage| prepared.judge.has_budget(stage)),
            reference: ReferenceRun::new(prepared),
            in_flight: VecDeque::new(),
            results: Vec::new(),
        })
    }

    /// Runs the steps, and judges what is selected.
    pub(super) fn finish(mut self, on: &mut dyn FnMut(Event<'_>)) -> Result<Vec<StageResult>> {
        let visits = |step: &&Step| {
            let mut modes = self.modes.iter();
            modes.any(|mode| mode.execution.visits(&step.id))
        };
        let steps: Vec<&Step> = self.plan.steps().iter().filter(visits).collect();
        let fail_fast = self.prepared.options.fail_fast;
        let most = if fail_fast { 0 } else { IN_FLIGHT };
        on(Event::Started {
            case: &self.prepared.case.name,
            steps: steps.len(),
        });
        for step in steps {
            let id = step.id.as_str();
            on(Event::Step { id });
            self.visit(step).map_err(|e| e.at_step(id))?;
            if self.drain(most, on)?.is_break() {
                return Ok(self.results);
            }
        }
        // The first failure ends this as well as the last comparison.
        let _ = self.drain(0, on)?;
        Ok(self.results)
    }

    /// Runs a step in every mode that needs it, and begins the comparisons of its results.
    fn visit(&mut self, step: &Step) -> Result<()> {
        let (prepared, backend) = (self.prepared, self.backend);
        let judge = &prepared.judge;
        let weights = prepared.weights.as_ref();
        let stage = prepared.candidate.alignment.of(&step.id);
        let selected = stage.filter(|stage| judge.is_selected(stage));
        let takes = |mode: &ModeRun<'_, B>| mode.execution.takes(&step.id);
        let read = stage.filter(|_| selected.is_some() || self.modes.iter().any(takes));
        let recorded = match read {
            Some(stage) => stage.read(weights, backend)?,
            None => None,
        };
        let prediction = match (stage, &recorded) {
            (Some(stage), Some(Recorded::Full(value))) => self.reference.advance(stage, value)?,
            _ => None,
        };
        let runs = |mode: &ModeRun<'_, B>| mode.execution.runs(&step.id);
        let params = if self.modes.iter().any(runs) {
            Params::new(params_of(step, weights)?, backend)?
        } else {
            Params::new(Vec::new(), backend)?
        };
        // Later steps carry on the error bound of a value that is not recorded.
        let is_bounded = self.has_budgets
            && stage.is_none_or(|stage| judge.has_budget(stage) || !stage.is_full());
        let confidence = is_bounded.then_some(prepared.options.confidence);
        for mode in &mut self.modes {
            let mut computed = if runs(mode) {
                Some(mode.compute(step, &params, confidence)?)
            } else {
                None
            };
            if let (Op::Route(route), Some(Recorded::Full(recorded)), Some(computed)) =
                (&step.op, &recorded, &mut computed)
            {
                let logits = prepared.candidate.alignment.of(&step.inputs[0]);
                let logits = logits.map(|stage| stage.read_full(weights)).transpose()?;
                let logits = logits.flatten().map(|value| value.aligned);
                let bias = params.host.first();
                mode.route(
                    step,
                    route,
                    bias,
                    &recorded.aligned,
                    logits.as_ref(),
                    computed,
                )?;
            }
            if let (Some(stage), Some(recorded), Some(computed)) = (selected, &recorded, &computed)
            {
                let prediction = prediction.as_ref();
                let pending =
                    judge.begin(stage, mode.mode, recorded, computed, prediction, backend)?;
                self.in_flight.push_back(pending);
            }
            mode.keep(step, recorded.as_ref(), computed)?;
        }
        Ok(())
    }

    /// Judges what has been measured, in order, until no more than `most` comparisons are left to wait
    /// for; breaks off at a failure if that is asked.
    fn drain(&mut self, most: usize, on: &mut dyn FnMut(Event<'_>)) -> Result<ControlFlow<()>> {
        let is_due = |in_flight: &VecDeque<Pending<'_>>| {
            in_flight.len() > most || in_flight.front().is_some_and(Pending::is_done)
        };
        while is_due(&self.in_flight)
            && let Some(pending) = self.in_flight.pop_front()
        {
            let result = self.prepared.judge.finish(pending)?;
            on(Event::Judged(&result));
            let failed = result.verdict() == Verdict::Fail;
            self.results.push(result);
            if failed && self.prepared.options.fail_fast {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl<'a, B: Backend> ModeRun<'a, B> {
    fn new(mode: Mode, prepared: &'a Prepared<'a>, backend: &'a B, plan: &'a Plan) -> Result<Self> {
        let known = match mode {
            Mode::Isolated => prepared.candidate.alignment.full(),
            Mode::Chained | Mode::Recorded => HashSet::new(),
        };
        let wanted = prepared.selected().map(|stage| &stage.id).collect();
        let padding = prepared.golden.padding();
        let steps = plan.steps();
        let oracle = || {
            let start = prepared.start.iter().cloned();
            let start = start.map(|(id, value)| (id, Value::given(value)));
            Execution::new(steps, &Fp64, start, &wanted, &known).padded(padding)
        };
        let start = prepared.start.iter();
        let start = start.map(|(id, value)| Ok((id.clone(), Value::given(backend.upload(value)?))));
        let start = start.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            mode,
            backend,
            execution: Execution::new(steps, backend, start, &wanted, &known).padded(padding),
            oracle: prepared.options.oracle.then(oracle),
            confidence: prepared.options.confidence,
        })
    }

    /// Computes a step; with its error bound where a confidence is named and its inputs are the
    /// reference's.
    fn compute(
        &self,
        step: &Step,
        params: &Params<B::Array>,
        confidence: Option<Confidence>,
    ) -> Result<Computed<B::Array>> {
        let array = self.execution.compute(step, &params.arrays)?;
        let oracle = self.oracle.as_ref();
        let exact = oracle.map(|oracle| oracle.compute(step, &params.host));
        let exact = exact.transpose()?;
        let confidence = confidence.filter(|_| self.mode == Mode::Isolated);
        let found = if confidence.is_some() || exact.is_some() {
            Some(self.backend.download(&array)?)
        } else {
            None
        };
        let error_bound = match (&found, confidence) {
            (Some(found), Some(confidence)) => {
                let params: Vec<Operand<'_>> = params.host.iter().map(Operand::given).collect();
                self.execution
                    .error_bound(step, &params, found, confidence)?
            }
            _ => None,
        };
        Ok(Computed {
            array,
            found,
            error_bound,
            exact,
            routing: None,
        })
    }

    /// Compares a choice of experts with the recorded one; of a chained run, takes that where the candidate's has
    /// flipped by noise. `logits` are the reference's, if they were recorded.
    fn route(
        &self,
        step: &Step,
        route: &Route,
        bias: Option<&Tensor>,
        recorded: &Tensor,
        logits: Option<&Tensor>,
        computed: &mut Computed<B::Array>,
    ) -> Result<()> {
        let own = self.execution.inputs_of(step)?[0];
        let choices = Choices {
            route,
            logits: &self.backend.download(own)?,
            bias,
            ours: &self.backend.download(&computed.array)?,
            theirs: recorded,
        };
        let is_isolated = self.mode == Mode::Isolated;
        let noise = match (&computed.error_bound, logits) {
            (Some(bound), _) if is_isolated => Noise::Bound(bound.roundings()),
            (_, Some(logits)) if !is_isolated => Noise::Logits(logits),
            _ => Noise::Unknown,
        };
        let (routing, merged) = choices.compare(&noise)?;
        computed.routing = Some(routing);
        if !is_isolated && routing.undecided > 0 {
            computed.array = self.backend.upload(&merged)?;
            computed.exact = match &computed.exact {
                Some(_) => Some(merged.widened()?),
                None => None,
            };
            computed.found = computed.found.as_ref().map(|_| merged);
        }
        Ok(())
    }

    /// Isolated runs go on with what was recorded, wherever it was; chained ones with their own.
    fn keep(
        &mut self,
        step: &Step,
        recorded: Option<&Recorded<B::Array>>,
        computed: Option<Computed<B::Array>>,
    ) -> Result<()> {
        let (given, exact) = match recorded {
            Some(Recorded::Full(value)) if self.mode == Mode::Isolated => (
                Some(Value::given(value.array.clone())),
                Some(value.aligned.clone()),
            ),
            _ => (None, None),
        };
        let (own, own_exact) = match computed {
            Some(Computed {
                array,
                found,
                error_bound,
                exact,
                ..
            }) => {
                let value = match &found {
                    Some(found) => {
                        Value::computed(step, array, found, error_bound, self.confidence)?
                    }
                    None => Value { array, error_bound },
                };
                (Some(value), exact)
            }
            None => (None, None),
        };
        self.execution.keep(step, given.or(own));
        if let Some(oracle) = &mut self.oracle {
            oracle.keep(step, exact.or(own_exact).map(Value::given));
        }
        Ok(())
    }
}

impl<A> Params<A> {
    fn new(host: Vec<Tensor>, backend: &impl Backend<Array = A>) -> Result<Self> {
        let arrays = host.iter().map(|param| backend.upload(param));
        Ok(Self {
            arrays: arrays.collect::<Result<_>>()?,
            host,
        })
    }
}
