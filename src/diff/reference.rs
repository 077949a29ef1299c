//! Which step a recorded stage is compared with, and what makes the two comparable.

use crate::backend::Backend;
use crate::checkpoint::Weights;
use crate::error::{Error, Result};
use crate::golden::{Content, Golden, Manifest, Reference, StageRecord};
use crate::plan::{Form, Numerics, Op, Param, Plan, Rounding, StageId, Step};
use crate::tensor::{DType, Float, Tensor, with_float};
use std::collections::BTreeMap;

/// A step whose value the golden holds, in the step's form or in one that leads to it.
#[derive(Clone, Copy)]
pub(super) struct Recorded<'a> {
    pub(super) record: &'a StageRecord,
    bias_missing: bool,
    factor: f32,
}

/// The steps of `plan` that can be compared, by index. A stage that the plan passes through in
/// several forms is compared in the one that was recorded.
pub(super) fn recorded<'a>(plan: &Plan, manifest: &'a Manifest) -> BTreeMap<usize, Recorded<'a>> {
    let mut steps: BTreeMap<&StageId, Vec<(usize, &Step)>> = BTreeMap::new();
    for (index, step) in plan.steps().iter().enumerate() {
        steps.entry(&step.stage).or_default().push((index, step));
    }
    let matched = manifest.stages.iter().filter_map(|record| {
        let forms = steps.get(&record.stage)?;
        let same = |(_, step): &&(usize, &Step)| step.form.without_bias == record.form.without_bias;
        // A bias can be added to what was recorded; it cannot be taken off a rounded sum.
        let completable = |(_, _): &&(usize, &Step)| record.form.without_bias;
        let (index, step) = forms
            .iter()
            .find(same)
            .or_else(|| forms.iter().rev().find(completable))?;
        let recorded = Recorded {
            record,
            bias_missing: record.form.without_bias && !step.form.without_bias,
            factor: record.form.divided_by / step.form.divided_by,
        };
        // Statistics of another form are not statistics of this one.
        let usable = recorded.is_full() || recorded.completion().is_none();
        usable.then_some((*index, recorded))
    });
    matched.collect()
}

impl Recorded<'_> {
    /// Whether all values were recorded, not statistics of them.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.record.content, Content::Full { .. })
    }

    /// The recorded value in the form that `step` computes, or its statistics.
    pub(super) fn value(
        &self,
        golden: &Golden,
        step: &Step,
        weights: &dyn Weights,
        backend: &dyn Backend,
    ) -> Result<Option<Reference>> {
        let value = match golden.reference(&self.record.stage)? {
            Some(Reference::Full(value)) => value,
            other => return Ok(other),
        };
        let value = match self.factor {
            1.0 => value,
            factor => scaled(&value, factor)?,
        };
        let value = match self.bias_missing {
            false => value,
            true => add_bias(&value, step, weights, backend)?,
        };
        Ok(Some(Reference::Full(value)))
    }

    /// What [`Self::value`] does to the recorded value, if anything.
    pub(super) fn completion(&self) -> Option<&'static str> {
        match (self.bias_missing, self.factor == 1.0) {
            (false, true) => None,
            (true, true) => Some("bias added"),
            (false, false) => Some("rescaled"),
            (true, false) => Some("rescaled, bias added"),
        }
    }
}

/// Adds the model's bias as the framework that left it out does in its next step: one rounding.
fn add_bias(
    value: &Tensor,
    step: &Step,
    weights: &dyn Weights,
    backend: &dyn Backend,
) -> Result<Tensor> {
    let name = format!("{}.bias", step.stage);
    let bias = weights.load(&name)?;
    let add = Step {
        id: step.id.clone(),
        stage: step.stage.clone(),
        form: Form::PLAIN,
        op: Op::AddBias,
        inputs: vec![step.id.clone()],
        params: vec![Param {
            name,
            shape: bias.shape().to_vec(),
        }],
        numerics: Numerics::elementwise(value.dtype(), Rounding::Once),
    };
    backend.run(&add, &[value], &[&bias])
}

/// `value · factor`, in fp32, rounded to the type of the values.
fn scaled(value: &Tensor, factor: f32) -> Result<Tensor> {
    let dtype = value.dtype();
    with_float!(dtype, T => {
        let scaled = value.as_slice::<T>()?.iter().map(|x| T::from_f32(x.to_f32() * factor));
        Tensor::from_vec(value.shape(), scaled.collect())
    }, else Err(Error::Mismatch {
        at: "scaled value".into(),
        expected: DType::F32.to_string(),
        found: dtype.to_string(),
    }))
}
