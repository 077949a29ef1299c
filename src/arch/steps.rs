//! Building plans: the steps that architectures have in common.

use crate::error::Result;
use crate::op::{self, Numerics, Op, Partials, Rounding};
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
        self.rows(id, &StageId::TOKENS.into(), shape)
    }

    /// As [`Self::embedding`], of the token's positions.
    pub(super) fn position_embedding(&mut self, id: &str, shape: [usize; 2]) -> StageId {
        self.rows(id, &StageId::POSITIONS.into(), shape)
    }

    fn rows(&mut self, id: &str, ids: &StageId, shape: [usize; 2]) -> StageId {
        self.push(Step {
            params: vec![param(&format!("{id}.weight"), &shape)],
            ..self.step(
                id,
                op::Embedding,
                [ids],
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

    /// An RMSNorm of rows of `width`, with a weight; rounded where a framework rounds it.
    pub(super) fn rms_norm(
        &mut self,
        id: &str,
        x: &StageId,
        width: usize,
        eps: f64,
        rounding: Rounding,
    ) -> StageId {
        let numerics = Numerics::norm(self.dtype).with_rounding(rounding);
        self.push(Step {
            params: vec![param(&format!("{id}.weight"), &[width])],
            ..self.step(id, op::RmsNorm { eps }, [x], numerics)
        })
    }

    /// Queries, keys or values by head, copied out of a projection.
    pub(super) fn heads(&mut self, id: &str, x: &StageId, split: op::SplitHeads) -> StageId {
        let numerics = Numerics::elementwise(self.dtype, Rounding::Once);
        self.push(self.step(id, split, [x], numerics))
    }

    /// Cosines or sines for the positions of all tokens.
    pub(super) fn rotary_table(&mut self, id: &str, table: op::RotaryTable) -> StageId {
        let numerics = Numerics::elementwise(self.dtype, Rounding::Once);
        self.push(self.step(id, table, [&StageId::POSITIONS.into()], numerics))
    }

    /// Heads that are rotated, both products and their sum rounded.
    pub(super) fn rotary(
        &mut self,
        id: &str,
        rotary: op::Rotary,
        x: &StageId,
        [cos, sin]: [&StageId; 2],
    ) -> StageId {
        let numerics = Numerics::elementwise(self.dtype, Rounding::EachOperation);
        self.push(self.step(id, rotary, [x, cos, sin], numerics))
    }

    /// Causal attention: scores without a bias, their product and its scaling rounded where a framework
    /// rounds them, probabilities, and values weighted by them. Stages are named below `at`.
    pub(super) fn attention(
        &mut self,
        at: &str,
        [query, key, value]: [&StageId; 3],
        scale: f64,
        rounding: Rounding,
    ) -> StageId {
        let op = op::AttentionScores {
            product_scale: scale as f32,
            alibi: None,
        };
        let numerics = Numerics::product(self.dtype).with_rounding(rounding);
        let scores = self.push(self.step(format!("{at}.scores"), op, [query, key], numerics));
        let op = op::Softmax {
            scale: 1.0,
            mask: op::Mask::Causal,
        };
        let numerics = Numerics::softmax(self.dtype);
        let probs = self.push(self.step(format!("{at}.probs"), op, [&scores], numerics));
        let (id, numerics) = (format!("{at}.context"), Numerics::product(self.dtype));
        self.push(self.step(id, op::Context, [&probs, value], numerics))
    }

    /// An activation function of every element.
    pub(super) fn activation(
        &mut self,
        id: &str,
        x: &StageId,
        (activation, rounding): (op::Activation, Rounding),
    ) -> StageId {
        let numerics = Numerics::elementwise(self.dtype, rounding);
        self.push(self.step(id, activation, [x], numerics))
    }

    /// The product of two values, element by element.
    pub(super) fn multiply(&mut self, id: &str, a: &StageId, b: &StageId) -> StageId {
        let numerics = Numerics::elementwise(self.dtype, Rounding::Once);
        self.push(self.step(id, op::Multiply, [a, b], numerics))
    }

    /// A linear layer of a bias that there may be, as a framework with this order of roundings has it:
    /// in the sum, or added to the rounded sum of `partials` by a step of its own.
    pub(super) fn layer(
        &mut self,
        id: &str,
        x: &StageId,
        shape: [usize; 2],
        bias: bool,
        order: BiasOrder,
    ) -> StageId {
        match (bias, order) {
            (true, BiasOrder::InSum) => self.linear(id, x, shape),
            (false, BiasOrder::InSum) => self.product(id, x, shape, Partials::ONE),
            (false, BiasOrder::After { partials }) => self.product(id, x, shape, partials),
            (true, BiasOrder::After { partials }) => {
                let product = self.product_before_bias(id, x, shape, partials);
                self.add_bias(&product, shape[0])
            }
        }
    }

    /// The logits of a head without a bias, whose weight may be another layer's.
    pub(super) fn head(&mut self, x: &StageId, weight: &str, shape: [usize; 2]) -> StageId {
        let op = op::Linear {
            bias: false,
            partials: Partials::ONE,
        };
        self.push(Step {
            params: vec![param(weight, &shape)],
            ..self.step("logits", op, [x], Numerics::product(self.dtype))
        })
    }

    /// A linear layer with weight `[out, in]` whose bias is in the sum before it is rounded.
    pub(super) fn linear(&mut self, id: &str, x: &StageId, shape: [usize; 2]) -> StageId {
        let mut step = self.projection(id, x, shape, true, Partials::ONE);
        step.params.push(param(&format!("{id}.bias"), &shape[..1]));
        self.push(step)
    }

    /// A linear layer without a bias, its product the sum of `partials` rounded ones.
    pub(super) fn product(
        &mut self,
        id: &str,
        x: &StageId,
        shape: [usize; 2],
        partials: Partials,
    ) -> StageId {
        self.push(self.projection(id, x, shape, false, partials))
    }

    /// The product of a linear layer whose bias is left to [`Self::add_bias`].
    pub(super) fn product_before_bias(
        &mut self,
        id: &str,
        x: &StageId,
        shape: [usize; 2],
        partials: Partials,
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
        partials: Partials,
    ) -> Step {
        let op = op::Linear { bias, partials };
        Step {
            params: vec![param(&format!("{id}.weight"), &shape)],
            ..self.step(id, op, [x], Numerics::product(self.dtype))
        }
    }
}

/// When a linear layer's bias is added.
#[derive(Clone, Copy)]
pub(super) enum BiasOrder {
    /// In the sum, before that is rounded: transformers.
    InSum,
    /// To the sum of the rounded products of so many ranks, with a rounding of its own: Megatron.
    After {
        /// What ranks have parts of the sum, and how those are added: one of a layer whose rows are divided.
        partials: Partials,
    },
}

/// A tensor of the converted model.
pub(super) fn param(name: &str, shape: &[usize]) -> Param {
    Param {
        name: name.to_owned(),
        shape: shape.to_vec(),
    }
}
