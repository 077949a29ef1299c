//! Steps in place of a step.

use crate::op::{self, Numerics, Op, Rounding};
use crate::plan::{StageId, Step, Variant};

/// A step that does `op` to the value of `step`, and takes over its name.
pub(super) fn followed(step: &mut Step, op: Op, rounding: Rounding) -> Step {
    let id = step.id.clone();
    step.id = format!("{id}.before").into();
    Step {
        inputs: vec![step.id.clone()],
        stage: step.stage.clone(),
        id,
        variant: Variant::PLAIN,
        op,
        params: Vec::new(),
        numerics: Numerics::elementwise(step.numerics.out, rounding),
    }
}

/// A step that does `op` to a value before `step` reads it.
pub(super) fn preceded(step: &mut Step, value: &StageId, op: Op, rounding: Rounding) -> Step {
    let id = StageId::from(format!("{value}.changed").as_str());
    let reads = step.inputs.iter_mut().filter(|input| *input == value);
    reads.for_each(|input| *input = id.clone());
    Step {
        id,
        stage: step.stage.clone(),
        variant: Variant::PLAIN,
        op,
        inputs: vec![value.clone()],
        params: Vec::new(),
        numerics: Numerics::elementwise(step.numerics.out, rounding),
    }
}

/// A product with its bias, as a rounded product and an addition.
pub(super) fn split(step: &Step) -> [Step; 2] {
    let mut product = step.clone();
    let bias = product.params.pop();
    if let Op::Linear(op::Linear { bias, .. }) = &mut product.op {
        *bias = false;
    }
    product.variant = Variant::WITHOUT_BIAS;
    product.id = format!("{}.product", step.id).into();
    let add = Step {
        op: Op::AddBias(op::AddBias),
        inputs: vec![product.id.clone()],
        params: bias.into_iter().collect(),
        numerics: Numerics::elementwise(step.numerics.out, Rounding::Once),
        ..step.clone()
    };
    [product, add]
}
