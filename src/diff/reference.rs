//! Which step a recorded stage is compared with, and what makes the two comparable.

use super::records::Records;
use crate::backend::{Backend, Cpu};
use crate::checkpoint::Weights;
use crate::error::{BadInput, Result};
use crate::golden::{Content, Manifest, Reference, StageRecord};
use crate::op::{self, Confidence, ErrorBound, Numerics, Op, Operand, Rounding};
use crate::plan::{Param, Plan, StageId, Step, Variant};
use crate::tensor::{Element, Tensor, with_element};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The recorded values of a golden, as the steps of one plan compute them.
pub(super) struct Recordings<'a> {
    records: &'a Records<'a>,
    plan: &'a Plan,
    weights: &'a dyn Weights,
    shapes: &'a HashMap<StageId, Vec<usize>>,
    /// By index of the step. A stage that the plan passes through in several variants is compared in
    /// the one that was recorded.
    steps: BTreeMap<usize, Recorded<'a>>,
}

/// A step whose value the golden holds, in the step's variant or in one that leads to it.
struct Recorded<'a> {
    record: &'a StageRecord,
    bias_missing: bool,
    factor: f32,
}

impl<'a> Recordings<'a> {
    pub(super) fn new(
        records: &'a Records<'a>,
        plan: &'a Plan,
        weights: &'a dyn Weights,
        shapes: &'a HashMap<StageId, Vec<usize>>,
    ) -> Self {
        Self {
            records,
            plan,
            weights,
            shapes,
            steps: recorded(plan, records.golden.manifest()),
        }
    }

    /// The recorded steps and their stages.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &'a StageId)> {
        let steps = self.steps.iter();
        steps.map(|(index, recorded)| (*index, &recorded.record.stage))
    }

    /// The steps of which all values were recorded, not statistics of them.
    pub(super) fn full(&self) -> BTreeSet<usize> {
        let full = self.steps.iter().filter(|(_, recorded)| recorded.is_full());
        full.map(|(index, _)| *index).collect()
    }

    /// Whether all values of a step were recorded.
    pub(super) fn is_full(&self, index: usize) -> bool {
        self.steps.get(&index).is_some_and(Recorded::is_full)
    }

    /// The recorded value of a step, in its variant and of its shape, or its statistics.
    pub(super) fn value(&self, index: usize) -> Result<Option<Reference>> {
        let Some(recorded) = self.steps.get(&index) else {
            return Ok(None);
        };
        let step = &self.plan.steps()[index];
        let value = match self.records.get(&recorded.record.stage)? {
            Some(Reference::Full(value)) => value,
            other => return Ok(other),
        };
        let completion = recorded.completion(step, self.weights)?;
        let value = completion.iter().try_fold(value, |value, step| {
            self.run(step, &value, &self.params(step)?)
        })?;
        if value.shape() != self.shapes[&step.id] {
            let file = self.records.golden.file_of(&step.stage);
            let expected = format!("shape {:?}", self.shapes[&step.id]);
            let fault = BadInput::new(file, expected, format!("shape {:?}", value.shape()));
            return Err(fault.at(step.stage.as_str()).into());
        }
        Ok(Some(Reference::Full(value)))
    }

    /// The shape of a step's value.
    pub(super) fn shape(&self, index: usize) -> &[usize] {
        &self.shapes[&self.plan.steps()[index].id]
    }

    /// How many NaNs were recorded of a step, whatever completes the recorded value.
    pub(super) fn nans(&self, index: usize) -> Result<usize> {
        let Some(recorded) = self.steps.get(&index) else {
            return Ok(0);
        };
        match self.records.get(&recorded.record.stage)? {
            Some(Reference::Full(value)) => with_element!(value.dtype(), T => {
                let values = value.as_slice::<T>()?.iter();
                Ok(values.filter(|x| x.to_f64().is_nan()).count())
            }),
            _ => Ok(0),
        }
    }

    /// The error bound of [`Self::value`], given that of what was recorded.
    pub(super) fn completed(
        &self,
        index: usize,
        error_bound: ErrorBound,
        confidence: Confidence,
    ) -> Result<ErrorBound> {
        let (recorded, step) = (&self.steps[&index], &self.plan.steps()[index]);
        let completion = recorded.completion(step, self.weights)?;
        if completion.is_empty() {
            return Ok(error_bound);
        }
        let Some(Reference::Full(mut value)) = self.records.get(&step.stage)? else {
            return Ok(error_bound);
        };
        let mut error_bound = error_bound;
        for step in &completion {
            let params = self.params(step)?;
            let completed = self.run(step, &value, &params)?;
            let given: Vec<Operand<'_>> = params.iter().map(Operand::given).collect();
            let input = Operand {
                value: &value,
                error_bound: Some(&error_bound),
            };
            error_bound = step.error_bound(&[input], &given, &completed, confidence)?;
            value = completed;
        }
        Ok(error_bound)
    }

    fn run(&self, step: &Step, value: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        let params: Vec<&Tensor> = params.iter().collect();
        // One operation an element, each rounded as IEEE has it: the same on any device.
        Cpu.run(step, &[value], &params)
    }

    /// What [`Self::value`] does to the recorded value, if anything.
    pub(super) fn completion(&self, index: usize) -> Option<&'static str> {
        self.steps[&index].completed()
    }

    /// The weights that a step needs.
    pub(super) fn params(&self, step: &Step) -> Result<Vec<Tensor>> {
        let params = step.params.iter();
        params.map(|param| self.weights.load(&param.name)).collect()
    }
}

fn recorded<'a>(plan: &Plan, manifest: &'a Manifest) -> BTreeMap<usize, Recorded<'a>> {
    let mut steps: BTreeMap<&StageId, Vec<(usize, &Step)>> = BTreeMap::new();
    for (index, step) in plan.steps().iter().enumerate() {
        steps.entry(&step.stage).or_default().push((index, step));
    }
    let matched = manifest.stages.iter().filter_map(|record| {
        let variants = steps.get(&record.stage)?;
        let same =
            |(_, step): &&(usize, &Step)| step.variant.without_bias == record.variant.without_bias;
        // A bias can be added to what was recorded; it cannot be taken off a rounded sum.
        let completable = |(_, _): &&(usize, &Step)| record.variant.without_bias;
        let (index, step) = variants
            .iter()
            .find(same)
            .or_else(|| variants.iter().rev().find(completable))?;
        let recorded = Recorded {
            record,
            bias_missing: record.variant.without_bias && !step.variant.without_bias,
            factor: record.variant.divided_by / step.variant.divided_by,
        };
        // Statistics of another variant are not statistics of this one.
        let usable = recorded.is_full() || recorded.completed().is_none();
        usable.then_some((*index, recorded))
    });
    matched.collect()
}

impl Recorded<'_> {
    fn is_full(&self) -> bool {
        matches!(self.record.content, Content::Full { .. })
    }

    fn completed(&self) -> Option<&'static str> {
        match (self.bias_missing, self.factor == 1.0) {
            (false, true) => None,
            (true, true) => Some("bias added"),
            (false, false) => Some("rescaled"),
            (true, false) => Some("rescaled, bias added"),
        }
    }

    /// The steps that make a recorded value the one that `step` computes. The model's bias is added
    /// as the framework that left it out does in its next step: one rounding.
    fn completion(&self, step: &Step, weights: &dyn Weights) -> Result<Vec<Step>> {
        let numerics = Numerics::elementwise(step.numerics.out, Rounding::Once);
        let with = |op, params| Step {
            id: step.id.clone(),
            stage: step.stage.clone(),
            variant: Variant::PLAIN,
            op,
            inputs: vec![step.id.clone()],
            params,
            numerics,
        };
        let mut steps = Vec::new();
        if self.factor != 1.0 {
            let factor = self.factor;
            steps.push(with(Op::Scale(op::Scale { factor }), Vec::new()));
        }
        if self.bias_missing {
            let name = format!("{}.bias", step.stage);
            let shape = weights.load(&name)?.shape().to_vec();
            steps.push(with(Op::AddBias(op::AddBias), vec![Param { name, shape }]));
        }
        Ok(steps)
    }
}
