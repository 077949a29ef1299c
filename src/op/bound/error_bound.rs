//! How far a value may be off.

use super::{Confidence, ROUNDING_RMS};
use crate::error::Result;
use crate::tensor::{DType, Element, Float, FloatFormat, Tensor, with_float};
use rayon::prelude::*;

/// The mean of `|d|` for a normally distributed `d`, over its standard deviation: √(2/π).
pub(crate) const MEAN_OF_NORMAL: f64 = 0.797_884_560_802_865_4;

/// How far a correct implementation's value may be from the exact one, element by element.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorBound {
    /// Largest effect of roundings to a storage type: the same for all implementations that round
    /// at the same places.
    pub(crate) rounding: Vec<f32>,
    /// Effect of everything that implementations may do differently, order of summation above all:
    /// a standard deviation, or a bound, as the confidence has it.
    pub(crate) std: Vec<f32>,
}

impl ErrorBound {
    /// Of values that are exact.
    pub(crate) fn zero(elements: usize) -> Self {
        Self {
            rounding: vec![0.0; elements],
            std: vec![0.0; elements],
        }
    }

    /// Of values that are known up to these standard deviations: weights that went through a
    /// narrower type.
    pub fn from_std(amounts: Vec<f32>) -> Self {
        Self {
            rounding: vec![0.0; amounts.len()],
            std: amounts,
        }
    }

    /// Of values once they are rounded to the type that `values` are stored in.
    ///
    /// Results that differ by `d` before a rounding differ after it by a whole unit in the last place
    /// with the probability `|d| / ulp`, and else by nothing. That keeps the mean of `|d|`, but the
    /// variance becomes `E|d|·ulp`: what later steps sum up are few large errors, not many small ones.
    ///
    /// # Errors
    /// None for floating values.
    pub(crate) fn rounded(mut self, values: &Tensor, confidence: Confidence) -> Result<Self> {
        // A bound on errors holds for those, too; and next to one of a half type fp32's ulp is nothing.
        if confidence == Confidence::Deterministic || !values.dtype().is_half() {
            return Ok(self);
        }
        with_float!(values.dtype(), T => {
            let ulp = |value: f32| T::DTYPE.float().map_or(0.0, |float| float.ulp(f64::from(value.abs())));
            let values = values.as_slice::<T>()?.par_iter();
            self.std.par_iter_mut().zip(values).for_each(|(std, value)| {
                let before = f64::from(*std);
                let mean = MEAN_OF_NORMAL * ROUNDING_RMS * before;
                let after = (mean * ulp(value.to_f32())).sqrt() / ROUNDING_RMS;
                *std = before.max(after) as f32;
            });
        }, else ());
        Ok(self)
    }

    /// Of values that are moved elsewhere.
    pub(crate) fn moved(&self, to: impl Fn(&[f32]) -> Result<Vec<f32>>) -> Result<Self> {
        Ok(Self {
            rounding: to(&self.rounding)?,
            std: to(&self.std)?,
        })
    }

    /// The rows (first axis) at these places of `count`.
    pub(crate) fn rows(&self, places: &[usize], count: usize) -> Self {
        let cut = |all: &[f32]| -> Vec<f32> {
            let width = all.len().checked_div(count).unwrap_or(0);
            let rows = places.iter();
            rows.flat_map(|row| &all[row * width..(row + 1) * width])
                .copied()
                .collect()
        };
        Self {
            rounding: cut(&self.rounding),
            std: cut(&self.std),
        }
    }

    /// What roundings do at most.
    pub(crate) fn roundings(&self) -> &[f32] {
        &self.rounding
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.std.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.std.is_empty()
    }
}

/// A storage type, as far as it rounds.
#[derive(Clone, Copy)]
pub(super) struct Storage {
    unit: f64,
    underflow: f64,
}

impl Storage {
    pub(super) fn new(dtype: DType) -> Self {
        Self {
            unit: dtype.unit_roundoff().unwrap_or(0.0),
            // fp32 arithmetic may flush what is not normal to zero, whatever is stored.
            underflow: dtype
                .float()
                .map_or(0.0, FloatFormat::smallest_subnormal)
                .max(f64::from(f32::MIN_POSITIVE)),
        }
    }

    /// Largest error of one rounding of `value`: the unit roundoff of its magnitude, and what is
    /// lost where it underflows (a GPU may flush to zero).
    #[inline(always)]
    pub(super) fn rounding(self, value: f64) -> f64 {
        self.unit * value.abs() + self.underflow
    }
}
