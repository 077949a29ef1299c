//! The candidate's model in the reference's arithmetic.
//!
//! Where the candidate's rounding points differ from the reference's, or a tensor core computed it, the
//! reference's error bound is that of its own steps; and how many half-precision elements may differ at
//! all can only be said of the same steps. So those are run: from recorded values to every recorded stage
//! on whose way the two sides differ. They run on the CPU whatever the candidate runs on: a budget covers
//! both.

use super::align::{AlignedStage, RecordedValue};
use super::prepare::{Prepared, Side};
use super::stretch::{Stretch, since_recorded};
use crate::backend::Cpu;
use crate::compare::{Flips, rounding_of_means, unequal};
use crate::error::{Error, Result};
use crate::exec::{Execution, Value, params_of};
use crate::op::{AllReduce, ErrorBound, Op, Operand, Summation};
use crate::plan::{StageId, Step};
use crate::tensor::Tensor;
use std::collections::{HashSet, VecDeque};
use std::num::NonZeroUsize;

/// The run, step by step beside the candidate's.
pub(super) struct ReferenceRun<'a> {
    prepared: &'a Prepared<'a>,
    execution: Execution<'a, Cpu>,
    /// Steps still to visit, in order.
    ahead: VecDeque<&'a Step>,
    /// Recorded steps on whose way something is computed as nobody knows: ranks' parts added in some order,
    /// attention as one kernel.
    unknown: HashSet<&'a StageId>,
    /// Stages of which elements are counted; else nothing need be computed where a value was recorded.
    counted: HashSet<&'a StageId>,
}

/// A step in the reference's arithmetic.
struct Evaluated {
    /// What was recorded, in the step's variant.
    recorded: Tensor,
    /// What the candidate's weights give; of half types only, where they are counted.
    value: Option<Tensor>,
    /// How far either may be from exact.
    error_bound: ErrorBound,
    /// What is known of the order in which ranks added since recorded values.
    sum: SumOfRanks,
}

/// How well the steps since recorded values are known where ranks' parts are added.
#[derive(Clone, Copy)]
enum SumOfRanks {
    /// Wherever that is, in a known order.
    Known,
    /// In the last step, of which so many elements are given by no order.
    InNoOrder(usize),
    /// Not at all.
    NotKnown,
}

/// A stage in the reference's arithmetic.
pub(super) struct Prediction {
    evaluated: Evaluated,
    /// How far a correct value may be from exact in the variant that the candidate's is compared in.
    pub(super) error_bound: Option<ErrorBound>,
    /// Whether the candidate's steps have the same exact result.
    same_formula: bool,
}

/// How many elements of a stage differ from what the reference's own steps give.
pub(super) enum Mismatches {
    /// That was not counted: the candidate's steps are no others.
    OfCandidate,
    /// So many.
    Counted(Option<Flips>),
    /// Nobody can say: how something was computed on the way is not known.
    Uncountable,
}

impl Prediction {
    /// How many elements differ between what the reference's own steps give and what was recorded. Not
    /// counted if the candidate's are steps of another formula.
    pub(super) fn mismatches(&self) -> Result<Mismatches> {
        let Evaluated {
            recorded,
            error_bound,
            ..
        } = &self.evaluated;
        let unequal = match (self.evaluated.sum, self.value()) {
            (SumOfRanks::NotKnown, _) => return Ok(Mismatches::Uncountable),
            (SumOfRanks::InNoOrder(unequal), Some(_)) => unequal,
            (SumOfRanks::Known, Some(value)) => unequal(recorded, value)?,
            (_, None) => return Ok(Mismatches::OfCandidate),
        };
        let flips = Flips::new(unequal, recorded, error_bound, error_bound)?;
        Ok(Mismatches::Counted(flips))
    }

    /// How far means of what the reference's own steps give are from those of what was recorded, over what
    /// rounding may make of them; where mismatches are counted.
    pub(super) fn rounding_of_means(&self, slices: NonZeroUsize) -> Result<Option<f64>> {
        let Evaluated {
            recorded,
            error_bound,
            ..
        } = &self.evaluated;
        let ratio = self
            .value()
            .map(|value| rounding_of_means(recorded, value, [error_bound, error_bound], slices));
        Ok(ratio.transpose()?.flatten())
    }

    fn value(&self) -> Option<&Tensor> {
        let value = self.evaluated.value.as_ref();
        value.filter(|_| self.same_formula)
    }
}

impl<'a> ReferenceRun<'a> {
    /// A run for the recorded stages that have a budget and where the plans differ, or on the way to them.
    pub(super) fn new(prepared: &'a Prepared<'a>) -> Self {
        let Side { plan, alignment } = &prepared.reference;
        let known = alignment.full();
        let is_fused = |step: &Step| prepared.may_fuse_attention && step.op.is_softmax();
        let is_unknown = |step: &Step| is_unknown_sum(step) || is_fused(step);
        let unknown: HashSet<&StageId> = known
            .iter()
            .copied()
            .filter(|id| {
                since_recorded(plan, id, &known)
                    .iter()
                    .any(|step| is_unknown(step))
            })
            .collect();
        let differs = |stage: &&AlignedStage<'_>| {
            let stretch = prepared.stretches.get(&stage.id);
            let own = alignment.of_stage(stage.stage());
            stretch.is_some_and(|stretch| !stretch.differences.is_empty())
                || own.is_some_and(|own| unknown.contains(&own.id))
        };
        let on_tensor_core = plan
            .steps()
            .iter()
            .any(|step| matches!(step.numerics.summation, Summation::TensorCore(_)));
        let budgeted = || {
            let stages = prepared.selected();
            stages.filter(|stage| prepared.judge.has_budget(stage))
        };
        let counted = budgeted().filter(|stage| prepared.judge.counts_flips(stage));
        let counted = counted.filter(&differs).map(AlignedStage::stage).collect();
        let predicted = budgeted().filter(|stage| on_tensor_core || differs(stage));
        let predicted: HashSet<&StageId> = predicted.map(AlignedStage::stage).collect();
        let full = alignment.iter().filter(|stage| stage.is_full());
        let wanted = full.filter(|stage| predicted.contains(stage.stage()));
        let execution = Execution::new(
            plan.steps(),
            &Cpu,
            prepared
                .start
                .iter()
                .map(|(id, value)| (id.clone(), Value::given(value.clone()))),
            &wanted.map(|stage| &stage.id).collect(),
            &alignment.full(),
        )
        .padded(prepared.golden.padding());
        Self {
            prepared,
            ahead: execution.steps().collect(),
            execution,
            unknown,
            counted,
        }
    }

    /// Goes on to a stage of the candidate's, given what was recorded of it; predicts it if its budget needs
    /// that. Stages come in execution order.
    pub(super) fn advance<A>(
        &mut self,
        stage: &AlignedStage<'_>,
        recorded: &RecordedValue<A>,
    ) -> Result<Option<Prediction>> {
        let is_stage = |step: &&Step| {
            let own = self.prepared.reference.alignment.of(&step.id);
            own.is_some_and(|own| own.stage() == stage.stage())
        };
        let Some(place) = self.ahead.iter().position(is_stage) else {
            return Ok(None);
        };
        let Prepared {
            reference, weights, ..
        } = self.prepared;
        let weights = weights.as_ref();
        let mut evaluated = None;
        for step in self.ahead.drain(..=place).collect::<Vec<_>>() {
            let own = match reference.alignment.of(&step.id) {
                Some(own) if own.stage() == stage.stage() => {
                    Some(own.align(recorded.raw.clone(), weights, &Cpu)?)
                }
                Some(own) => own.read_full(weights)?,
                None => None,
            };
            evaluated = match own {
                Some(own) => self.evaluate(step, own.aligned)?,
                None => {
                    self.run(step)?;
                    None
                }
            };
        }
        let Some(evaluated) = evaluated else {
            return Ok(None);
        };
        let stretch = self.prepared.stretches.get(&stage.id);
        let confidence = self.prepared.options.confidence;
        let bound = evaluated.error_bound.clone();
        Ok(Some(Prediction {
            evaluated,
            error_bound: stage.error_bound(&recorded.raw, bound, weights, confidence)?,
            same_formula: stretch.is_some_and(Stretch::is_of_one_formula),
        }))
    }

    /// Runs a step that nothing was recorded of.
    fn run(&mut self, step: &Step) -> Result<()> {
        let params = self.params(step)?;
        let array = self.execution.compute(step, &params)?;
        let error_bound = self.error_bound(step, &params, &array)?;
        let confidence = self.prepared.options.confidence;
        let value = Value::computed(step, array.clone(), &array, error_bound, confidence)?;
        self.execution.keep(step, Some(value));
        Ok(())
    }

    /// Evaluates a step if it is to be predicted, and goes on with what was recorded of it.
    fn evaluate(&mut self, step: &Step, recorded: Tensor) -> Result<Option<Evaluated>> {
        let mut evaluated = None;
        if self.execution.runs(&step.id) {
            let params = self.params(step)?;
            let counted = self.counted.contains(&step.stage) && step.numerics.out.is_half();
            let value = counted.then(|| self.execution.compute(step, &params));
            let value = value.transpose()?;
            let output = value.as_ref().unwrap_or(&recorded);
            evaluated = self
                .error_bound(step, &params, output)?
                .map(|error_bound| {
                    Ok::<_, Error>(Evaluated {
                        recorded: recorded.clone(),
                        value,
                        error_bound,
                        sum: self.sum_of_ranks(step, &params, &recorded)?,
                    })
                })
                .transpose()?;
        }
        self.execution.keep(step, Some(Value::given(recorded)));
        Ok(evaluated)
    }

    fn sum_of_ranks(
        &self,
        step: &Step,
        params: &[Tensor],
        recorded: &Tensor,
    ) -> Result<SumOfRanks> {
        if !self.unknown.contains(&step.id) {
            return Ok(SumOfRanks::Known);
        }
        let given = self.execution.given(step);
        let (Some(given), Op::Linear(op), true) = (given, &step.op, is_unknown_sum(step)) else {
            return Ok(SumOfRanks::NotKnown);
        };
        let missed = op.in_no_order(given[0], &params[0], recorded)?;
        Ok(missed.map_or(SumOfRanks::NotKnown, SumOfRanks::InNoOrder))
    }

    fn params(&self, step: &Step) -> Result<Vec<Tensor>> {
        params_of(step, self.prepared.weights.as_ref())
    }

    fn error_bound(
        &self,
        step: &Step,
        params: &[Tensor],
        output: &Tensor,
    ) -> Result<Option<ErrorBound>> {
        let params: Vec<Operand<'_>> = params.iter().map(Operand::given).collect();
        let confidence = self.prepared.options.confidence;
        self.execution
            .error_bound(step, &params, output, confidence)
    }
}

/// Whether a step adds ranks' parts in an order that is not known.
fn is_unknown_sum(step: &Step) -> bool {
    matches!(step.op, Op::Linear(op) if op.partials.has_order() && op.partials.order == AllReduce::Unknown)
}
