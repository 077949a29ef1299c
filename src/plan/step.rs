//! One step of a plan.

use super::StageId;
use crate::op::{Numerics, Op};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One operation on values computed before, giving one new value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Name of the value; unique in its plan.
    pub id: StageId,
    /// The stage this value stands for. Differs from `id` where a plan passes through a stage in
    /// more than one variant: Megatron's `dense` without its bias, then `dense.biased` with it.
    pub stage: StageId,
    /// The variant the stage's value has here.
    pub variant: Variant,
    /// What is computed.
    pub op: Op,
    /// Values it is computed from, in the order the operation names them.
    pub inputs: Vec<StageId>,
    /// Tensors of the checkpoint it needs, in the order the operation names them.
    pub params: Vec<Param>,
    /// In what types, and where it rounds.
    pub numerics: Numerics,
}

/// A tensor of the converted model that a step needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Param {
    /// Its name in the checkpoint below the model prefix: `h.0.self_attention.dense.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// How the value of a stage relates to the plain one that `transformers` shows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Whether the module's bias, if it has one, is still to be added (Megatron's
    /// `skip_bias_add`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_bias: bool,
    /// By what the value is divided (Megatron's query-key layer scaling divides scores by the
    /// layer's number).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub divided_by: f32,
}

fn one() -> f32 {
    1.0
}

fn is_one(value: &f32) -> bool {
    *value == 1.0
}

impl Variant {
    /// The value itself.
    pub const PLAIN: Self = Self {
        without_bias: false,
        divided_by: 1.0,
    };
    /// A product whose bias is added by a later step.
    pub const WITHOUT_BIAS: Self = Self {
        without_bias: true,
        divided_by: 1.0,
    };
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.op, self.numerics)
    }
}
