//! Facts of a reference's run that nobody records, inferred from its values: where libraries choose an
//! order or a rounding by sizes and machines, half-precision results differ in so many elements that the
//! right choice shows.

use super::prepare::Side;
use super::stretch::since_recorded;
use crate::backend::Cpu;
use crate::checkpoint::Weights;
use crate::compare::{Flips, unequal};
use crate::error::Result;
use crate::exec::{Execution, Padding, Value, params_of};
use crate::op::{AlibiSum, AllReduce, Confidence, ErrorBound, Op, Operand};
use crate::plan::{Arithmetic, MegatronArithmetic, StageId, Step};
use crate::tensor::Tensor;
use std::collections::HashSet;

/// Recorded values that choices are tried on.
const TRIED: usize = 2;
/// How improbable the differences of the right choice may be: log₁₀ of the probability.
const PLAUSIBLE: f64 = -6.0;

/// A reference's run, as far as it can be run again.
pub(super) struct Inference<'a, 'b> {
    /// The candidate's model in an arithmetic, and what was recorded of it.
    pub(super) side: &'b dyn Fn(&Arithmetic) -> Result<Side<'a>>,
    pub(super) weights: &'b dyn Weights,
    pub(super) start: &'b [(StageId, Tensor)],
    pub(super) padding: Option<&'b Padding>,
    /// Whether the reference was computed on a GPU.
    pub(super) on_gpu: bool,
}

/// What a choice gives on the values that it was tried on.
struct Tried {
    arithmetic: Arithmetic,
    flips: Vec<Flips>,
}

impl Tried {
    fn observed(&self) -> usize {
        self.flips.iter().map(|flips| flips.observed).sum()
    }

    fn elements(&self) -> usize {
        self.flips.iter().map(|flips| flips.elements).sum()
    }

    fn is_plausible(&self) -> bool {
        self.flips.iter().all(|flips| flips.log10_p >= PLAUSIBLE)
    }
}

impl Inference<'_, '_> {
    /// The arithmetic with all that was inferred, and what to say of it.
    ///
    /// # Errors
    /// If a recorded file is malformed.
    pub(super) fn complete(&self, recorded: Arithmetic) -> Result<(Arithmetic, Vec<String>)> {
        let (arithmetic, order) = self.order_of_ranks(recorded)?;
        let (arithmetic, sum) = self.sum_of_alibi(arithmetic)?;
        Ok((arithmetic, [order, sum].into_iter().flatten().collect()))
    }

    /// In which order the ranks' parts of row-parallel products were added.
    fn order_of_ranks(&self, theirs: Arithmetic) -> Result<(Arithmetic, Option<String>)> {
        let Arithmetic::Megatron(megatron) = theirs else {
            return Ok((theirs, None));
        };
        let plain = (self.side)(&theirs)?;
        if !megatron.partials().has_order() || !plain.plan.dtype().is_half() {
            return Ok((theirs, None));
        }
        let with = |all_reduce| {
            Arithmetic::Megatron(MegatronArithmetic {
                all_reduce,
                ..megatron
            })
        };
        let ranks = megatron.tensor_parallel;
        let ends = ends(
            &plain,
            |step| matches!(step.op, Op::Linear(op) if op.partials.has_order()),
        );
        let stages = ends
            .iter()
            .map(StageId::as_str)
            .collect::<Vec<_>>()
            .join(" and ");
        let Some((best, order)) =
            self.best(&ends, AllReduce::KNOWN.map(|order| (with(order), order)))?
        else {
            let note = format!(
                "the order in which {ranks} ranks added does not show: no value that it leads to is recorded"
            );
            return Ok((with(AllReduce::Unknown), Some(note)));
        };
        let (observed, of) = (best.observed(), best.elements());
        Ok(if best.is_plausible() {
            let note = format!(
                "the reference's {ranks} ranks added by {order}, found from {stages}: {observed} of {of} elements \
                 differ"
            );
            (best.arithmetic, Some(note))
        } else {
            let note = format!(
                "no known order in which {ranks} ranks add gives {stages} ({order} comes closest, {observed} of \
                 {of} elements differ): their sums are held to all orders of the ranks' parts"
            );
            (with(AllReduce::Unknown), Some(note))
        })
    }

    /// Whether products of queries and keys were rounded before ALiBi was added: some of cuBLAS's kernels
    /// do, others do not.
    fn sum_of_alibi(&self, theirs: Arithmetic) -> Result<(Arithmetic, Option<String>)> {
        let plain = (self.side)(&theirs)?;
        if !self.on_gpu || !plain.plan.dtype().is_half() {
            return Ok((theirs, None));
        }
        let ends = ends(
            &plain,
            |step| matches!(&step.op, Op::AttentionScores(op) if op.alibi.is_some()),
        );
        let choices =
            [AlibiSum::InProduct, AlibiSum::Rounded].map(|sum| (theirs.with_alibi_sum(sum), sum));
        Ok(match self.best(&ends, choices)? {
            Some((best, AlibiSum::Rounded)) => {
                let (observed, of) = (best.observed(), best.elements());
                let stages = ends
                    .iter()
                    .map(StageId::as_str)
                    .collect::<Vec<_>>()
                    .join(" and ");
                let note = format!(
                    "the reference's GPU rounded products of queries and keys before ALiBi was added, found from \
                     {stages}: {observed} of {of} elements differ"
                );
                (best.arithmetic, Some(note))
            }
            _ => (theirs, None),
        })
    }

    /// The choice that gives the values at `ends` with the fewest differences, the first one of equals;
    /// `None` if there are no such values.
    fn best<C>(
        &self,
        ends: &[StageId],
        choices: impl IntoIterator<Item = (Arithmetic, C)>,
    ) -> Result<Option<(Tried, C)>> {
        let mut best: Option<(Tried, C)> = None;
        if ends.is_empty() {
            return Ok(None);
        }
        for (arithmetic, choice) in choices {
            let side = (self.side)(&arithmetic)?;
            let flips = ends.iter().map(|end| self.flips(&side, end));
            let flips = flips.collect::<Result<Vec<_>>>()?;
            let tried = Tried {
                arithmetic,
                flips: flips.into_iter().flatten().collect(),
            };
            let fewest = best.as_ref().map(|(best, _)| best.observed());
            if fewest.is_none_or(|fewest| tried.observed() < fewest) {
                best = Some((tried, choice));
            }
        }
        Ok(best)
    }

    /// How many elements of a recorded value differ from what the steps to it give.
    fn flips(&self, side: &Side<'_>, end: &StageId) -> Result<Option<Flips>> {
        let confidence = Confidence::Probabilistic;
        let start = self.start.iter().cloned();
        let start = start.map(|(id, value)| (id, Value::given(value)));
        let wanted = HashSet::from([end]);
        let full = side.alignment.full();
        let mut execution =
            Execution::new(side.plan.steps(), &Cpu, start, &wanted, &full).padded(self.padding);
        for step in execution.steps().collect::<Vec<_>>() {
            let recorded = match side.alignment.of(&step.id) {
                Some(aligned) => aligned.read_full(self.weights)?.map(|value| value.aligned),
                None => None,
            };
            let mut value = recorded.clone().map(Value::given);
            if execution.runs(&step.id) {
                let params = params_of(step, self.weights)?;
                let operands: Vec<Operand<'_>> = params.iter().map(Operand::given).collect();
                let array = execution.compute(step, &params)?;
                let bound = execution.error_bound(step, &operands, &array, confidence)?;
                if step.id == *end
                    && let Some(recorded) = &recorded
                {
                    let bound = bound.unwrap_or_else(|| ErrorBound::zero(array.len()));
                    let unequal = unequal(recorded, &array)?;
                    return Flips::new(unequal, recorded, &bound, &bound);
                }
                let own = Value::computed(step, array.clone(), &array, bound, confidence)?;
                value = value.or(Some(own));
            }
            execution.keep(step, value);
        }
        Ok(None)
    }
}

/// The first recorded values that such steps lead to, in execution order.
fn ends(side: &Side<'_>, is_such: impl Fn(&Step) -> bool) -> Vec<StageId> {
    let full = side.alignment.full();
    let recorded = side.plan.steps().iter();
    let recorded = recorded.filter(|step| full.contains(&step.id));
    let led_to = recorded.filter(|end| {
        let steps = since_recorded(&side.plan, &end.id, &full);
        steps.iter().any(|step| is_such(step))
    });
    led_to.take(TRIED).map(|step| step.id.clone()).collect()
}
