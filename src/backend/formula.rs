//! Formulas of one number, written once and evaluated in whatever arithmetic a caller brings: fp32
//! rounded after every operation, fp64, or values that carry what rounding may have done to them.

use super::functions;
use crate::op::Activation;
use std::ops::{Add, Div, Mul};

/// A number that formulas can be evaluated in. Constants are exact in fp32 and never rounded to a
/// storage type, as scalars in frameworks are.
pub(crate) trait Real:
    Copy + Add<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// A constant.
    fn constant(value: f32) -> Self;
    /// Its hyperbolic tangent.
    fn tanh(self) -> Self;
    /// e to its power.
    fn exp(self) -> Self;
    /// Its error function.
    fn erf(self) -> Self;
    /// Itself, or 0 if that is larger; NaN stays.
    fn positive(self) -> Self;
}

/// An activation function; operations in the order that frameworks execute them in.
#[inline(always)]
#[expect(
    clippy::excessive_precision,
    reason = "the constant as the frameworks write it"
)]
pub(crate) fn activation<R: Real>(activation: Activation, x: R) -> R {
    let constant = R::constant;
    match activation {
        Activation::BloomGelu => {
            let half = x * constant(0.5);
            let scaled = constant(0.797_884_56) * x;
            let cubic = constant(0.044_715) * x * x;
            let inner = scaled * (constant(1.0) + cubic);
            half * (constant(1.0) + inner.tanh())
        }
        Activation::Gelu => {
            let inner = x * constant(std::f32::consts::FRAC_1_SQRT_2);
            x * constant(0.5) * (constant(1.0) + inner.erf())
        }
        Activation::QuickGelu => x * sigmoid(constant(1.702) * x),
        // One division, as torch's kernel has it.
        Activation::Silu => x / (constant(1.0) + (constant(-1.0) * x).exp()),
        Activation::Relu => x.positive(),
        Activation::ReluSquared => x.positive() * x.positive(),
    }
}

#[inline(always)]
fn sigmoid<R: Real>(x: R) -> R {
    R::constant(1.0) / (R::constant(1.0) + (R::constant(-1.0) * x).exp())
}

/// `cap · tanh(x / cap)`.
#[inline(always)]
pub(crate) fn soft_cap<R: Real>(cap: R, x: R) -> R {
    cap * (x / cap).tanh()
}

impl Real for f64 {
    #[inline(always)]
    fn constant(value: f32) -> Self {
        value.into()
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        libm::tanh(self)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        functions::exp(self)
    }
    #[inline(always)]
    fn erf(self) -> Self {
        libm::erf(self)
    }
    #[inline(always)]
    fn positive(self) -> Self {
        if self < 0.0 { 0.0 } else { self }
    }
}

impl Real for f32 {
    #[inline(always)]
    fn constant(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        functions::tanh(self)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        functions::exp(self.into()) as f32
    }
    #[inline(always)]
    fn erf(self) -> Self {
        libm::erf(self.into()) as f32
    }
    #[inline(always)]
    fn positive(self) -> Self {
        if self < 0.0 { 0.0 } else { self }
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
            (Activation::Gelu, 0.841_345, -0.158_655),
            (Activation::QuickGelu, 0.845_796, -0.154_204),
            (Activation::Silu, 0.731_059, -0.268_941),
            (Activation::Relu, 1.0, 0.0),
            (Activation::ReluSquared, 1.0, 0.0),
        ] {
            approx::assert_abs_diff_eq!(activation(function, 1.0_f64), at_one, epsilon = 1e-6);
            let found = activation(function, -1.0_f64);
            approx::assert_abs_diff_eq!(found, at_minus_one, epsilon = 1e-6);
            let narrow = f64::from(activation(function, -1.0_f32));
            approx::assert_abs_diff_eq!(narrow, found, epsilon = 1e-7);
        }
        approx::assert_abs_diff_eq!(soft_cap(2.0, 1.0_f64), 0.924_234, epsilon = 1e-6);
    }
}
