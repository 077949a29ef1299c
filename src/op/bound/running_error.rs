//! A number that carries its error bound through a formula.

use super::{Confidence, U};
use crate::op::formula::Real;
use std::ops::{Add, Div, Mul};

/// How far a function of one argument may be off in fp32, in unit roundoffs: CUDA's `tanhf`, `expf`
/// and `erff` are documented to 2 ulp.
const FUNCTION: f64 = 4.0;

/// A value, the largest effect of storage roundings on it, and the standard deviation of what else
/// may differ. Every operation propagates both to first order and adds its own.
#[derive(Clone, Copy, Debug)]
pub(in crate::op) struct RunningError {
    pub(in crate::op) value: f64,
    pub(in crate::op) rounding: f64,
    /// The standard deviation, or its square (which adds up) where effects are independent.
    std: f64,
    /// Unit roundoff of the type that every result is rounded to; 0 where results stay in fp32.
    unit: f64,
    confidence: Confidence,
}

impl RunningError {
    pub(in crate::op) fn new(
        value: f64,
        [rounding, std]: [f64; 2],
        unit: f64,
        confidence: Confidence,
    ) -> Self {
        Self {
            value,
            rounding,
            std: power(confidence, std),
            unit,
            confidence,
        }
    }

    pub(in crate::op) fn std(self) -> f64 {
        match self.confidence {
            Confidence::Probabilistic => self.std.sqrt(),
            Confidence::Deterministic => self.std,
        }
    }

    /// The result of an operation on operands whose effects on it are given.
    #[inline(always)]
    fn result(self, other: Self, value: f64, effects: [[f64; 2]; 2], own: f64) -> Self {
        let unit = self.unit.max(other.unit);
        // Constants carry no confidence of their own.
        let confidence = match self.confidence {
            Confidence::Probabilistic => other.confidence,
            Confidence::Deterministic => self.confidence,
        };
        let [a, b] = effects;
        Self {
            value,
            rounding: a[0] + b[0] + unit * value.abs(),
            std: a[1] + b[1] + power(confidence, own * U * value.abs()),
            unit,
            confidence,
        }
    }

    #[inline(always)]
    fn effect(self, slope: f64) -> [f64; 2] {
        let slope = slope.abs();
        [
            self.rounding * slope,
            self.std * power(self.confidence, slope),
        ]
    }

    /// Where every result is rounded to a half type, single operations are IEEE's and the same
    /// everywhere; in fp32 they may be contracted or reordered.
    #[inline(always)]
    fn operation(self, other: Self) -> f64 {
        f64::from(self.unit.max(other.unit) <= U)
    }

    #[inline(always)]
    fn function(self, value: f64, slope: f64) -> Self {
        let effect = self.effect(slope);
        self.result(self, value, [effect, [0.0; 2]], FUNCTION)
    }
}

/// The power of a standard deviation that adds up.
#[inline(always)]
fn power(confidence: Confidence, std: f64) -> f64 {
    match confidence {
        Confidence::Probabilistic => std * std,
        Confidence::Deterministic => std,
    }
}

impl Add for RunningError {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let effects = [self.effect(1.0), other.effect(1.0)];
        self.result(
            other,
            self.value + other.value,
            effects,
            self.operation(other),
        )
    }
}

impl Mul for RunningError {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let effects = [self.effect(other.value), other.effect(self.value)];
        self.result(
            other,
            self.value * other.value,
            effects,
            self.operation(other),
        )
    }
}

impl Div for RunningError {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        let effects = [
            self.effect(1.0 / other.value),
            other.effect(value / other.value),
        ];
        self.result(other, value, effects, self.operation(other))
    }
}

impl Real for RunningError {
    fn constant(value: f32) -> Self {
        Self::new(value.into(), [0.0; 2], 0.0, Confidence::default())
    }
    fn tanh(self) -> Self {
        // Of the value only the leading digits matter here.
        let value = 1.0 - 2.0 / (Real::exp(2.0 * self.value) + 1.0);
        self.function(value, 1.0 - value * value)
    }
    fn exp(self) -> Self {
        let value = Real::exp(self.value);
        self.function(value, value)
    }
    fn erf(self) -> Self {
        let slope = std::f64::consts::FRAC_2_SQRT_PI * Real::exp(-self.value * self.value);
        self.function(libm::erf(self.value), slope)
    }
    fn positive(self) -> Self {
        if self.value < 0.0 {
            // A value whose sign rounding may have changed keeps its error bound.
            Self { value: 0.0, ..self }
        } else {
            self
        }
    }
}
