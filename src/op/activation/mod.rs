//! Activation functions.

mod cuda;

use super::{Locality, Operation};
use serde::Serialize;
use std::fmt;

/// x → same shape: an activation function of every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `x·0.5 · (1 + tanh(0.79788456·x · (1 + 0.044715·x·x)))`, operations in this order: GELU as
    /// BLOOM and Megatron-DeepSpeed write it.
    BloomGelu,
    /// `x·0.5 · (1 + erf(x·√½))`: GELU as it is defined.
    Gelu,
    /// `x · σ(1.702·x)`.
    QuickGelu,
    /// `x · σ(x)`, also called swish.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
}

impl Activation {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::BloomGelu,
        Self::Gelu,
        Self::QuickGelu,
        Self::Silu,
        Self::Relu,
        Self::ReluSquared,
    ];
}

impl Operation for Activation {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([x], []) => Some(x.to_vec()),
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Element
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BloomGelu => "gelu (bloom)",
            Self::Gelu => "gelu (erf)",
            Self::QuickGelu => "quick gelu",
            Self::Silu => "silu",
            Self::Relu => "relu",
            Self::ReluSquared => "relu²",
        })
    }
}
