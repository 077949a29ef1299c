//! What is carried along with a value, and what two sides may differ by.

use crate::tensor::{DType, FloatFormat};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How many stds a correct implementation may be off. A standard deviation takes every rounding at its
/// largest, where the root mean square is 0.41 of it, so that 3 stds on each side are some ten
/// standard deviations of the difference of two results.
const SPREADS: f64 = 3.0;

/// How sure a budget is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Roundings are independent and terms come in no order that favours one sign (Higham & Mary
    /// 2019, "A new approach to probabilistic rounding error analysis"): errors grow with the
    /// square root of a sum's length.
    #[default]
    Probabilistic,
    /// Nothing is assumed: every rounding has its worst sign. Errors grow with a sum's length.
    Deterministic,
}

/// How far a correct implementation's value may be from the exact one, element by element.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorBound {
    /// Largest effect of roundings to a storage type: the same for all implementations that round
    /// at the same places.
    pub(super) rounding: Vec<f32>,
    /// Effect of everything that implementations may do differently, order of summation above all:
    /// a standard deviation, or a bound, as the confidence has it.
    pub(super) std: Vec<f32>,
}

/// What two values may differ by, element by element.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    allowed: Vec<f32>,
}

impl Confidence {
    /// Two independent effects together.
    #[inline(always)]
    pub(super) fn join(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Probabilistic => (a * a + b * b).sqrt(),
            Self::Deterministic => a + b,
        }
    }

    fn stds(self) -> f64 {
        match self {
            Self::Probabilistic => SPREADS,
            Self::Deterministic => 1.0,
        }
    }
}

impl ErrorBound {
    /// Of values that are exact.
    pub(super) fn none(elements: usize) -> Self {
        Self {
            rounding: vec![0.0; elements],
            std: vec![0.0; elements],
        }
    }

    /// Of values that are known up to these amounts, as standard deviation: weights that went through a narrower
    /// type.
    pub fn from_std(amounts: Vec<f32>) -> Self {
        Self {
            rounding: vec![0.0; amounts.len()],
            std: amounts,
        }
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

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.std.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.std.is_empty()
    }
}

impl Budget {
    /// What the values of two sides may differ by, each with its own error bound from the same exact
    /// value.
    pub fn of(ours: &ErrorBound, theirs: &ErrorBound, confidence: Confidence) -> Self {
        let stds = confidence.stds();
        let mut allowed = vec![0.0; ours.len()];
        allowed.par_iter_mut().enumerate().for_each(|(index, to)| {
            let rounding = f64::from(ours.rounding[index]) + f64::from(theirs.rounding[index]);
            let std = f64::from(ours.std[index]) + f64::from(theirs.std[index]);
            *to = (rounding + stds * std) as f32;
        });
        Self { allowed }
    }

    /// The allowed absolute difference of every element.
    pub fn allowed(&self) -> &[f32] {
        &self.allowed
    }
}

/// A storage type, as far as it rounds.
#[derive(Clone, Copy)]
pub(super) struct Storage {
    unit: f64,
    underflow: f64,
}

impl Storage {
    pub(super) fn of(dtype: DType) -> Self {
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

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Probabilistic => "probabilistic",
            Self::Deterministic => "deterministic",
        })
    }
}
