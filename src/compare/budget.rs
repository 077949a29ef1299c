//! What two sides may differ by.

use crate::op::{Confidence, ErrorBound, STDS};
use rayon::prelude::*;

/// What the values of two correct implementations may differ by, element by element: the error bounds
/// of both.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    allowed: Vec<f32>,
}

impl Budget {
    /// What the values of two sides may differ by, each with its own error bound from the same exact
    /// value.
    pub fn new(ours: &ErrorBound, theirs: &ErrorBound, confidence: Confidence) -> Self {
        let stds = match confidence {
            Confidence::Probabilistic => STDS,
            Confidence::Deterministic => 1.0,
        };
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
