//! Whose arithmetic a plan follows.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The framework whose places of rounding a plan has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "framework", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Arithmetic {
    /// transformers, eager: biases inside the product, residual adds rounded once.
    Transformers {},
    /// Megatron: biases after the rounded product, row-parallel products summed over ranks.
    Megatron(MegatronArithmetic),
}

/// What changes Megatron's results from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MegatronArithmetic {
    /// Ranks that share every layer; at least 1.
    pub tensor_parallel: usize,
    /// Whether scores are divided by `max(1, block index)` and multiplied back inside the softmax.
    pub query_key_layer_scaling: bool,
}

impl Default for MegatronArithmetic {
    fn default() -> Self {
        Self {
            tensor_parallel: 1,
            query_key_layer_scaling: true,
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transformers {} => f.write_str("transformers"),
            Self::Megatron(megatron) => match megatron.tensor_parallel {
                1 => f.write_str("megatron"),
                n => write!(f, "megatron (tensor parallel {n})"),
            },
        }
    }
}
