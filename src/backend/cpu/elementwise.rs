//! Adds and activations. Every element is computed for itself, in fp32.

use crate::backend::formula::{self, Real};
use crate::op::{Activation, Rounding};
use crate::tensor::Float;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::{Add, Div, Mul};

/// Elements a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// `a + b`, rounded once.
pub(super) fn add<T: Float>(a: &[T], b: &[T]) -> Vec<T> {
    let mut out = vec![T::zeroed(); a.len()];
    out.par_chunks_mut(CHUNK)
        .zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)))
        .for_each(|(out, (a, b))| {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = T::from_f32(a.to_f32() + b.to_f32());
            }
        });
    out
}

/// `activation(gate) · up` in fp32, rounded once; or the activation rounded, then the product.
pub(super) fn gate<T: Float>(
    gate: &[T],
    up: &[T],
    activation: Activation,
    rounding: Rounding,
) -> Vec<T> {
    let mut out = vec![T::zeroed(); gate.len()];
    out.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
        .for_each(|(out, (gate, up))| {
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                let activated = formula::activation(activation, gate.to_f32());
                let activated = match rounding {
                    Rounding::Once => activated,
                    Rounding::EachOperation => T::from_f32(activated).to_f32(),
                };
                *out = T::from_f32(activated * up.to_f32());
            }
        });
    out
}

/// `x + row` for every row of `x`, rounded once.
pub(super) fn add_row<T: Float>(x: &[T], row: &[T]) -> Vec<T> {
    let mut out = vec![T::zeroed(); x.len()];
    if out.is_empty() {
        return out;
    }
    out.par_chunks_mut(row.len())
        .zip(x.par_chunks(row.len()))
        .for_each(|(out, x)| {
            for ((out, x), add) in out.iter_mut().zip(x).zip(row) {
                *out = T::from_f32(x.to_f32() + add.to_f32());
            }
        });
    out
}

/// `function` of every element, rounded where `rounding` says.
pub(super) fn map<T: Float>(x: &[T], function: Function, rounding: Rounding) -> Vec<T> {
    match rounding {
        Rounding::EachOperation => each(x, |x| function.of(Eager::<T>::of(x)).0),
        Rounding::Once => each(x, |x| function.of(x)),
    }
}

/// What can be done to every element.
#[derive(Clone, Copy)]
pub(super) enum Function {
    Activation(Activation),
    Scale(f32),
    SoftCap(f32),
}

impl Function {
    #[inline(always)]
    fn of<R: Real>(self, x: R) -> R {
        match self {
            Self::Activation(activation) => formula::activation(activation, x),
            Self::Scale(factor) => R::constant(factor) * x,
            Self::SoftCap(cap) => formula::soft_cap(R::constant(cap), x),
        }
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
    use half::bf16;

    #[test]
    fn rounding_every_operation_is_not_rounding_once() {
        let x: Vec<bf16> = (0..200)
            .map(|i| bf16::from_f32(i as f32 * 0.01 - 1.0))
            .collect();
        let gelu = Function::Activation(Activation::BloomGelu);
        let once = map(&x, gelu, Rounding::Once);
        let each = map(&x, gelu, Rounding::EachOperation);
        assert_ne!(once, each);
    }

    #[test]
    fn adds_are_rounded_to_the_storage_type() {
        let [one, hair] = [1.0, 0.5_f32.powi(9)].map(bf16::from_f32);
        assert_eq!(add(&[one], &[hair]), [one]);
        assert_eq!(
            add_row(&[one, hair, hair, one], &[hair, one]),
            [
                one,
                one,
                bf16::from_f32(0.5_f32.powi(8)),
                bf16::from_f32(2.0)
            ]
        );
    }
}
