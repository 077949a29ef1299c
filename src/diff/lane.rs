//! A plan being run step by step, and the values that its later steps still need.

use crate::backend::Backend;
use crate::error::Result;
use crate::op::{Confidence, ErrorBound, Operand};
use crate::plan::{Plan, Schedule, StageId, Step};
use crate::tensor::Tensor;
use std::collections::{BTreeSet, HashMap};

/// One run of a part of a plan.
pub(super) struct Lane<'a, B: Backend> {
    plan: &'a Plan,
    backend: &'a B,
    schedule: Schedule,
    values: HashMap<StageId, Value<B::Array>>,
}

/// A value that steps read.
pub(super) struct Value<A> {
    array: A,
    /// `None` if it was given, or nobody asks.
    error_bound: Option<ErrorBound>,
}

impl<A> Value<A> {
    /// A value that both sides start from.
    pub(super) fn given(array: A) -> Self {
        Self {
            array,
            error_bound: None,
        }
    }

    /// A value that a lane computed.
    pub(super) fn computed(array: A, error_bound: Option<ErrorBound>) -> Self {
        Self { array, error_bound }
    }
}

impl<'a, B: Backend> Lane<'a, B> {
    /// A run of what is needed for the steps in `wanted`, where those in `known` are given.
    pub(super) fn new(
        plan: &'a Plan,
        backend: &'a B,
        tokens: B::Array,
        wanted: &BTreeSet<usize>,
        known: &BTreeSet<usize>,
    ) -> Self {
        let tokens = (StageId::TOKENS.into(), Value::given(tokens));
        Self {
            plan,
            backend,
            schedule: plan.schedule(wanted, known),
            values: HashMap::from([tokens]),
        }
    }

    /// Whether a step has to run.
    pub(super) fn runs(&self, index: usize) -> bool {
        self.schedule.run.contains(&index)
    }

    /// Whether a later step reads the given value of a step.
    pub(super) fn is_supplied(&self, index: usize) -> bool {
        self.schedule.supply.contains(&index)
    }

    /// The steps that run or are given, in order.
    pub(super) fn visited(&self) -> impl Iterator<Item = usize> {
        self.schedule.run.union(&self.schedule.supply).copied()
    }

    /// Computes a step.
    pub(super) fn run(&self, index: usize, params: &[B::Array]) -> Result<B::Array> {
        let step = self.step(index);
        let inputs: Vec<&B::Array> = self.inputs(step).map(|value| &value.array).collect();
        let params: Vec<&B::Array> = params.iter().collect();
        self.backend.run(step, &inputs, &params)
    }

    /// How far a correct result of a step may be from exact; `None` if it is made of elements that
    /// were given.
    pub(super) fn error_bound(
        &self,
        index: usize,
        params: &[Tensor],
        output: &Tensor,
        confidence: Confidence,
    ) -> Result<Option<ErrorBound>> {
        let step = self.step(index);
        let values: Vec<Tensor> = self
            .inputs(step)
            .map(|input| self.backend.download(&input.array))
            .collect::<Result<_>>()?;
        let inputs = values.iter().zip(self.inputs(step));
        let inputs: Vec<Operand<'_>> = inputs
            .map(|(value, input)| Operand {
                value,
                error_bound: input.error_bound.as_ref(),
            })
            .collect();
        if step.op.locality().is_copy() && inputs.iter().all(Operand::is_given) {
            return Ok(None);
        }
        let params: Vec<Operand<'_>> = params.iter().map(Operand::given).collect();
        step.error_bound(&inputs, &params, output, confidence)
            .map(Some)
    }

    /// Takes the value of a step that later steps are to see, if any, and drops those that none
    /// will.
    pub(super) fn keep(&mut self, index: usize, value: Option<Value<B::Array>>) {
        if let Some(value) = value {
            self.values.insert(self.step(index).id.clone(), value);
        }
        let last_uses = &self.schedule.last_uses;
        self.values
            .retain(|id, _| last_uses.get(id).is_some_and(|last| *last > index));
    }

    fn step(&self, index: usize) -> &'a Step {
        &self.plan.steps()[index]
    }

    fn inputs<'b>(&'b self, step: &'b Step) -> impl Iterator<Item = &'b Value<B::Array>> {
        step.inputs.iter().map(|id| &self.values[id])
    }
}
