//! Operations on every element for itself: [formulas](Formula) of one number on all backends, and
//! what two inputs are joined by.

use super::bound::{Bounded, ErrorBound, Evaluation, RunningError};
use super::formula::{Formula, Real};
use super::{Arguments, CpuKernel, Fp64Kernel, Numerics, Rounding};
use crate::error::Result;
use crate::tensor::Float;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::{Add, Div, Mul};

/// Elements a thread takes at a time.
const CHUNK: usize = 1 << 14;

impl<F: Formula> CpuKernel for F {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    /// In fp32, rounded once or after every operation.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>> {
        Ok(map(arguments.input(0)?, self, rounding))
    }
}

impl<F: Formula> Fp64Kernel for F {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let x = arguments.input::<f64>(0)?;
        Ok(x.par_iter().map(|x| self.evaluate(*x)).collect())
    }
}

impl<F: Formula> Bounded for F {
    /// What the formula makes of the input's error and of its own.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let unit = of.eager_roundoff();
        Ok(of.each(|index| {
            let (value, bound) = of.inputs[0].element(index);
            let x = RunningError::new(value, bound, unit, of.confidence);
            let y = self.evaluate(x);
            [y.rounding, y.std()]
        }))
    }
}

fn map<T: Float>(x: &[T], formula: &impl Formula, rounding: Rounding) -> Vec<T> {
    match rounding {
        Rounding::EachOperation => each(x, |x| formula.evaluate(Eager::<T>::of(x)).0),
        Rounding::Once => each(x, |x| formula.evaluate(x)),
    }
}

fn each<T: Float>(x: &[T], function: impl Fn(f32) -> f32 + Sync) -> Vec<T> {
    let mut out = vec![T::zeroed(); x.len()];
    out.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(out, x)| {
            for (out, x) in out.iter_mut().zip(x) {
                *out = T::from_f32(function(x.to_f32()));
            }
        });
    out
}

/// `function` of two elements in fp32, rounded once.
pub(super) fn zip<T: Float>(a: &[T], b: &[T], function: impl Fn(f32, f32) -> f32 + Sync) -> Vec<T> {
    let mut out = vec![T::zeroed(); a.len()];
    out.par_chunks_mut(CHUNK)
        .zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)))
        .for_each(|(out, (a, b))| {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = T::from_f32(function(a.to_f32(), b.to_f32()));
            }
        });
    out
}

/// fp32 rounded to `T` after every operation, as eager execution leaves it. Constants are not.
struct Eager<T>(f32, PhantomData<T>);

impl<T: Float> Eager<T> {
    #[inline(always)]
    fn of(value: f32) -> Self {
        Self(value, PhantomData)
    }

    #[inline(always)]
    fn rounded(value: f32) -> Self {
        Self::of(T::from_f32(value).to_f32())
    }
}

impl<T> Clone for Eager<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Eager<T> {}

impl<T: Float> Add for Eager<T> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self::rounded(self.0 + other.0)
    }
}

impl<T: Float> Mul for Eager<T> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self::rounded(self.0 * other.0)
    }
}

impl<T: Float> Div for Eager<T> {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self::rounded(self.0 / other.0)
    }
}

impl<T: Float> Real for Eager<T> {
    #[inline(always)]
    fn constant(value: f32) -> Self {
        Self::of(value)
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        Self::rounded(Real::tanh(self.0))
    }
    #[inline(always)]
    fn exp(self) -> Self {
        Self::rounded(Real::exp(self.0))
    }
    #[inline(always)]
    fn erf(self) -> Self {
        Self::rounded(Real::erf(self.0))
    }
    #[inline(always)]
    fn positive(self) -> Self {
        Self::of(self.0.positive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Activation;
    use half::bf16;

    #[test]
    fn rounding_every_operation_is_not_rounding_once() {
        let x: Vec<bf16> = (0..200)
            .map(|i| bf16::from_f32(i as f32 * 0.01 - 1.0))
            .collect();
        let gelu = Activation::BloomGelu;
        let once = map(&x, &gelu, Rounding::Once);
        let each = map(&x, &gelu, Rounding::EachOperation);
        assert_ne!(once, each);
    }

    #[test]
    fn sums_are_rounded_to_the_storage_type() {
        let [one, hair] = [1.0, 0.5_f32.powi(9)].map(bf16::from_f32);
        assert_eq!(zip(&[one], &[hair], |a, b| a + b), [one]);
    }
}
