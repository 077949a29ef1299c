//! Activation functions, as configs name them.

use super::Settings;
use crate::error::Result;
use crate::op::{Activation, Rounding};
use serde::{Deserialize, Serialize};

/// An activation function by transformers' name of it. Those that compute GELU's tanh formula round
/// at places of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActivationName {
    /// GELU by erf, in one operation.
    Gelu,
    /// GELU by tanh, operation by operation.
    GeluNew,
    /// GELU by tanh, in one operation.
    GeluPytorchTanh,
    /// `x · σ(1.702·x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x · σ(x)`.
    Silu,
}

impl ActivationName {
    /// The function that a setting names.
    pub(super) fn of(settings: &Settings<'_>, key: &str, default: Self) -> Result<Self> {
        let name = settings.text(&[key])?;
        Ok(match name.as_deref() {
            None => default,
            Some("gelu") => Self::Gelu,
            Some("gelu_new") => Self::GeluNew,
            Some("gelu_pytorch_tanh") => Self::GeluPytorchTanh,
            Some("quick_gelu") => Self::QuickGelu,
            Some("relu") => Self::Relu,
            Some("silu" | "swish") => Self::Silu,
            Some(other) => {
                let expected = "gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu or swish";
                return Err(settings.fault(key, expected, format!("{other:?}")));
            }
        })
    }

    /// What transformers computes, and where it rounds.
    pub(super) fn as_transformers(self) -> (Activation, Rounding) {
        match self {
            Self::Gelu => (Activation::Gelu, Rounding::Once),
            Self::GeluNew => (Activation::GeluNew, Rounding::EachOperation),
            Self::GeluPytorchTanh => (Activation::GeluNew, Rounding::Once),
            Self::QuickGelu => (Activation::QuickGelu, Rounding::EachOperation),
            Self::Relu => (Activation::Relu, Rounding::Once),
            Self::Silu => (Activation::Silu, Rounding::Once),
        }
    }

    /// What megatron-core computes, and where it rounds: its fused GELU is a formula of its own,
    /// operation by operation on a CPU.
    pub(super) fn as_megatron(self) -> (Activation, Rounding) {
        match self {
            Self::GeluNew => (Activation::BloomGelu, Rounding::EachOperation),
            Self::Gelu | Self::GeluPytorchTanh | Self::QuickGelu | Self::Relu | Self::Silu => {
                self.as_transformers()
            }
        }
    }
}
