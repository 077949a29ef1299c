//! Building plans: the steps that architectures have in common.

use crate::error::Result;
use crate::op::{self, Numerics, Op, Rounding};
use crate::plan::{Param, Plan, StageId, Step, Variant};
use crate::tensor::DType;

/// The steps of a plan so far. A method that takes `&mut self` adds one and returns the id of the value
/// it leaves. Parameters are named after the step, as transformers names them after the module.
pub(super) struct Steps {
    pub(super) dtype: DType,
    steps: Vec<Step>,
}

impl Steps {
    /// None yet, of a model stored in `dtype`.
    pub(super) fn new(dtype: DType) -> Self {
        Self {
            dtype,
            steps: Vec::new(),
        }
    }

    /// The plan of all steps.
    pub(super) fn into_plan(self) -> Result<Plan> {
        Plan::new(self.dtype, self.steps)
    }

    /// A step without parameters whose value is the stage of its name.
    pub(super) fn step<const N: usize>(
        &self,
        id: impl Into<StageId>,
        op: impl Into<Op>,
        inputs: [&StageId; N],
        numerics: Numerics,
    ) -> Step {
        let id = id.into();
        Step {
            stage: id.clone(),
            id,
            variant: Variant::PLAIN,
            op: op.into(),
            inputs: inputs.map(StageId::clone).to_vec(),
            params: Vec::new(),
            numerics,
        }
    }

    /// Adds a step.
    pub(super) fn push(&mut self, step: Step) -> StageId {
        let id = step.id.clone();
        self.steps.push(step);
        id
    }

    /// Rows of a table, which are copied: nothing is computed or rounded.
    pub(super) fn embedding(&mut self, id: &str, shape: [usize; 2]) -> StageId {
        self.push(Step {
            params: vec![param(&format!("{id}.weight"), &shape)],
            ..self.step(
                id,
                op::Embedding,
                [&StageId::TOKENS.into()],
                Numerics::elementwise(self.dtype, Rounding::Once),
            )
        })
    }

    /// A LayerNorm of rows of `width`, with weight and bias.
    pub(super) fn layer_norm(&mut self, id: &str, x: &StageId, width: usize, eps: f64) -> StageId {
        self.push(Step {
            params: vec![
                param(&format!("{id}.weight"), &[width]),
                param(&format!("{id}.bias"), &[width]),
            ],
            ..self.step(id, op::LayerNorm { eps }, [x], Numerics::norm(self.dtype))
        })
    }

    /// A linear layer with weight `[out, in]` whose bias is in the sum before it is rounded.
    pub(super) fn linear(&mut self, id: &str, x: &StageId, shape: [usize; 2]) -> StageId {
        let mut step = self.projection(id, x, shape, true, 1);
        step.params.push(param(&format!("{id}.bias"), &shape[..1]));
        self.push(step)
    }

    /// A linear layer without a bias, its product the sum of `partials` rounded ones.
    pub(super) fn product(
        &mut self,
        id: &str,
        x: &StageId,
        shape: [usize; 2],
        partials: usize,
    ) -> StageId {
        self.push(self.projection(id, x, shape, false, partials))
    }

    /// The product of a linear layer whose bias is left to [`Self::add_bias`].
    pub(super) fn product_before_bias(
        &mut self,
        id: &str,
        x: &StageId,
        shape: [usize; 2],
        partials: usize,
    ) -> StageId {
        self.push(Step {
            variant: Variant::WITHOUT_BIAS,
            ..self.projection(id, x, shape, false, partials)
        })
    }

    /// The product with its bias, of the same stage.
    pub(super) fn add_bias(&mut self, product: &StageId, width: usize) -> StageId {
        let numerics = Numerics::elementwise(self.dtype, Rounding::Once);
        let id = format!("{product}.biased");
        self.push(Step {
            stage: product.clone(),
            params: vec![param(&format!("{product}.bias"), &[width])],
            ..self.step(id, op::AddBias, [product], numerics)
        })
    }

    /// The sum of two values.
    pub(super) fn add(&mut self, id: impl Into<StageId>, a: &StageId, b: &StageId) -> StageId {
        let numerics = Numerics::elementwise(self.dtype, Rounding::Once);
        self.push(self.step(id, op::Add, [a, b], numerics))
    }

    fn projection(
        &self,
        id: &str,
        x: &StageId,
        shape: [usize; 2],
        bias: bool,
        partials: usize,
    ) -> Step {
        let op = op::Linear { bias, partials };
        Step {
            params: vec![param(&format!("{id}.weight"), &shape)],
            ..self.step(id, op, [x], Numerics::product(self.dtype))
        }
    }
}

/// A tensor of the converted model.
pub(super) fn param(name: &str, shape: &[usize]) -> Param {
    Param {
        name: name.to_owned(),
        shape: shape.to_vec(),
    }
}
