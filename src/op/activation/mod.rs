//! Activation functions.

mod cuda;

use super::formula::{Formula, Real};
use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, elementwise};
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
    /// `0.5·x · (1 + tanh(0.79788456 · (x + 0.044715·x³)))`, operations in this order: GELU as
    /// transformers' `gelu_new` writes it.
    GeluNew,
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
    pub const ALL: [Self; 7] = [
        Self::BloomGelu,
        Self::GeluNew,
        Self::Gelu,
        Self::QuickGelu,
        Self::Silu,
        Self::Relu,
        Self::ReluSquared,
    ];
}

impl Formula for Activation {
    #[inline(always)]
    #[expect(
        clippy::excessive_precision,
        reason = "the constant as the frameworks write it"
    )]
    fn evaluate<R: Real>(&self, x: R) -> R {
        let constant = R::constant;
        match self {
            Self::BloomGelu => {
                let half = x * constant(0.5);
                let scaled = constant(0.797_884_56) * x;
                let cubic = constant(0.044_715) * x * x;
                let inner = scaled * (constant(1.0) + cubic);
                half * (constant(1.0) + inner.tanh())
            }
            Self::GeluNew => {
                // The third power is two products, each rounded, as torch's pow computes it.
                let inner = x + constant(0.044_715) * (x * x * x);
                let tanh = (constant(0.797_884_56) * inner).tanh();
                constant(0.5) * x * (constant(1.0) + tanh)
            }
            Self::Gelu => {
                let inner = x * constant(std::f32::consts::FRAC_1_SQRT_2);
                x * constant(0.5) * (constant(1.0) + inner.erf())
            }
            Self::QuickGelu => x * sigmoid(constant(1.702) * x),
            // One division, as torch's kernel has it.
            Self::Silu => x / (constant(1.0) + (constant(-1.0) * x).exp()),
            Self::Relu => x.positive(),
            Self::ReluSquared => x.positive() * x.positive(),
        }
    }
}

#[inline(always)]
fn sigmoid<R: Real>(x: R) -> R {
    R::constant(1.0) / (R::constant(1.0) + (R::constant(-1.0) * x).exp())
}

impl Operation for Activation {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        elementwise::<1>(inputs, params)
    }

    fn locality(&self) -> Locality {
        Locality::Element
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, _: DividedBy) -> String {
        match self {
            // One function, written in two ways.
            Self::BloomGelu | Self::GeluNew => "activation GeluTanh;".into(),
            other => format!("activation {other:?};"),
        }
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BloomGelu => "gelu (bloom)",
            Self::GeluNew => "gelu (new)",
            Self::Gelu => "gelu (erf)",
            Self::QuickGelu => "quick gelu",
            Self::Silu => "silu",
            Self::Relu => "relu",
            Self::ReluSquared => "relu²",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_have_their_known_values() {
        // At 1 and −1; erf(1/√2) = 0.682689, σ(1) = 0.731059, σ(1.702) = 0.845796.
        for (function, at_one, at_minus_one) in [
            (Activation::BloomGelu, 0.841_192, -0.158_808),
            (Activation::GeluNew, 0.841_192, -0.158_808),
            (Activation::Gelu, 0.841_345, -0.158_655),
            (Activation::QuickGelu, 0.845_796, -0.154_204),
            (Activation::Silu, 0.731_059, -0.268_941),
            (Activation::Relu, 1.0, 0.0),
            (Activation::ReluSquared, 1.0, 0.0),
        ] {
            approx::assert_abs_diff_eq!(function.evaluate(1.0_f64), at_one, epsilon = 1e-6);
            let found = function.evaluate(-1.0_f64);
            approx::assert_abs_diff_eq!(found, at_minus_one, epsilon = 1e-6);
            let narrow = f64::from(function.evaluate(-1.0_f32));
            approx::assert_abs_diff_eq!(narrow, found, epsilon = 1e-7);
        }
    }
}
