//! Formulas of one number, written once and evaluated in whatever arithmetic a caller brings: fp32
//! rounded once or after every operation, fp64, values that carry what rounding may have done to them,
//! or expressions that are written down.

use super::functions;
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

/// A formula of one number, which is what an operation does to every element.
pub(crate) trait Formula: Sync {
    /// Its value; operations in the order that frameworks execute them in.
    fn evaluate<R: Real>(&self, x: R) -> R;
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
