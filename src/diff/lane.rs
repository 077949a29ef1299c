//! A plan being run step by step, and the values that its later steps still need.

use crate::backend::Backend;
use crate::budget::{self, Confidence, Deviation, Operand};
use crate::error::Result;
use crate::plan::{Plan, Schedule, StageId, Step};
use crate::tensor::Tensor;
use std::collections::{BTreeSet, HashMap};

/// One run of a part of a plan.
pub(super) struct Lane<'a> {
    plan: &'a Plan,
    backend: &'a dyn Backend,
    schedule: Schedule,
    values: HashMap<StageId, Value>,
}

/// A value that steps read.
pub(super) struct Value {
    tensor: Tensor,
    /// `None` if it was given, or nobody asks.
    deviation: Option<Deviation>,
}

impl Value {
    /// A value that both sides start from.
    pub(super) fn given(tensor: Tensor) -> Self {
        Self {
            tensor,
            deviation: None,
        }
    }

    /// A value that a lane computed.
    pub(super) fn computed(tensor: Tensor, deviation: Option<Deviation>) -> Self {
        Self { tensor, deviation }
    }
}

impl<'a> Lane<'a> {
    /// A run of what is needed for the steps in `wanted`, where those in `known` are given.
    pub(super) fn new(
        plan: &'a Plan,
        backend: &'a dyn Backend,
        tokens: &Tensor,
        wanted: &BTreeSet<usize>,
        known: &BTreeSet<usize>,
    ) -> Self {
        let tokens = (StageId::TOKENS.into(), Value::given(tokens.clone()));
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
    pub(super) fn run(&self, index: usize, params: &[Tensor]) -> Result<Tensor> {
        let step = self.step(index);
        let inputs: Vec<&Tensor> = self.inputs(step).map(|value| &value.tensor).collect();
        let params: Vec<&Tensor> = params.iter().collect();
        self.backend.run(step, &inputs, &params)
    }

    /// How far a correct result of a step may be from exact; `None` if it is made of elements that
    /// were given.
    pub(super) fn deviation(
        &self,
        index: usize,
        params: &[Tensor],
        output: &Tensor,
        confidence: Confidence,
    ) -> Result<Option<Deviation>> {
        let step = self.step(index);
        let inputs: Vec<Operand<'_>> = self
            .inputs(step)
            .map(|input| Operand {
                value: &input.tensor,
                deviation: input.deviation.as_ref(),
            })
            .collect();
        if step.op.rearranges() && inputs.iter().all(Operand::is_given) {
            return Ok(None);
        }
        let params: Vec<Operand<'_>> = params.iter().map(Operand::given).collect();
        budget::deviation(step, &inputs, &params, output, confidence).map(Some)
    }

    /// Takes the value of a step that later steps are to see, if any, and drops those that none
    /// will.
    pub(super) fn keep(&mut self, index: usize, value: Option<Value>) {
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

    fn inputs<'b>(&'b self, step: &'b Step) -> impl Iterator<Item = &'b Value> {
        step.inputs.iter().map(|id| &self.values[id])
    }
}
