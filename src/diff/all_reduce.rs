//! The order in which a reference's ranks added, found from what was recorded.
//!
//! It is the library's, depends on sizes and machines, and nobody records it. From three ranks on
//! half-precision results differ with it in a third of their elements, so the right one shows.

use super::prepare::Side;
use super::stretch::since_recorded;
use crate::backend::Cpu;
use crate::checkpoint::Weights;
use crate::compare::{Flips, unequal};
use crate::error::Result;
use crate::exec::{Execution, Value, params_of};
use crate::op::{AllReduce, Confidence, ErrorBound, Op, Operand};
use crate::plan::{Arithmetic, MegatronArithmetic, StageId, Step};
use crate::tensor::Tensor;
use std::collections::HashSet;

/// Recorded sums that orders are tried on.
const TRIED: usize = 2;
/// How improbable the differences of the right order may be: log₁₀ of the probability.
const PLAUSIBLE: f64 = -6.0;

/// The arithmetic with the order that fits what was recorded, and what to say of it. Where results do not
/// depend on it, or nothing shows it, the arithmetic as it is.
///
/// # Errors
/// If a recorded file is malformed.
pub(super) fn found<'a>(
    theirs: Arithmetic,
    side: impl Fn(&Arithmetic) -> Result<Side<'a>>,
    weights: &dyn Weights,
    start: &[(StageId, Tensor)],
) -> Result<(Arithmetic, Option<String>)> {
    let Arithmetic::Megatron(megatron) = theirs else {
        return Ok((theirs, None));
    };
    let plain = side(&theirs)?;
    if !megatron.partials().has_order() || !plain.plan.dtype().is_half() {
        return Ok((theirs, None));
    }
    let ends = ends(&plain);
    let ends: Vec<&StageId> = ends.iter().take(TRIED).collect();
    let with = |all_reduce| {
        Arithmetic::Megatron(MegatronArithmetic {
            all_reduce,
            ..megatron
        })
    };
    let ranks = megatron.tensor_parallel;
    if ends.is_empty() {
        let note = format!(
            "the order in which {ranks} ranks added does not show: no sum of theirs is recorded"
        );
        return Ok((with(AllReduce::Unknown), Some(note)));
    }
    let mut best: Option<(usize, AllReduce, Vec<Flips>)> = None;
    for order in AllReduce::KNOWN {
        let side = side(&with(order))?;
        let flips = ends.iter().map(|end| flips(&side, end, weights, start));
        let flips: Vec<Flips> = flips
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        let observed = flips.iter().map(|flips| flips.observed).sum();
        if best.as_ref().is_none_or(|(fewest, ..)| observed < *fewest) {
            best = Some((observed, order, flips));
        }
    }
    let Some((observed, order, flips)) = best else {
        return Ok((theirs, None));
    };
    let of: usize = flips.iter().map(|flips| flips.elements).sum();
    let stages = ends
        .iter()
        .map(|id| id.as_str())
        .collect::<Vec<_>>()
        .join(" and ");
    let fits = flips.iter().all(|flips| flips.log10_p >= PLAUSIBLE);
    Ok(if fits {
        let note = format!(
            "the reference's {ranks} ranks added by {order}, found from {stages}: {observed} of {of} elements differ"
        );
        (with(order), Some(note))
    } else {
        let note = format!(
            "no known order in which {ranks} ranks add gives {stages} ({order} comes closest, {observed} of {of} \
             elements differ): their sums are held to all orders of the ranks' parts"
        );
        (with(AllReduce::Unknown), Some(note))
    })
}

/// The first recorded values that ranks' sums lead to, in execution order.
fn ends(side: &Side<'_>) -> Vec<StageId> {
    let full = side.alignment.full();
    let sums = |step: &&Step| matches!(step.op, Op::Linear(op) if op.partials.has_order());
    let recorded = side
        .plan
        .steps()
        .iter()
        .filter(|step| full.contains(&step.id));
    let led_to = recorded.filter(|end| {
        let steps = since_recorded(&side.plan, &end.id, &full);
        steps.iter().any(sums)
    });
    led_to.map(|step| step.id.clone()).collect()
}

/// How many elements of a recorded value differ from what the steps to it give.
fn flips(
    side: &Side<'_>,
    end: &StageId,
    weights: &dyn Weights,
    start: &[(StageId, Tensor)],
) -> Result<Option<Flips>> {
    let confidence = Confidence::Probabilistic;
    let start = start
        .iter()
        .cloned()
        .map(|(id, value)| (id, Value::given(value)));
    let wanted = HashSet::from([end]);
    let full = side.alignment.full();
    let mut execution = Execution::new(side.plan.steps(), &Cpu, start, &wanted, &full);
    for step in execution.steps().collect::<Vec<_>>() {
        let recorded = match side.alignment.of(&step.id) {
            Some(aligned) => aligned.read_full(weights)?.map(|value| value.aligned),
            None => None,
        };
        let mut value = recorded.clone().map(Value::given);
        if execution.runs(&step.id) {
            let params = params_of(step, weights)?;
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
