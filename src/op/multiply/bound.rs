//! How far products of two values may be off.

use super::Multiply;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, U};

impl Bounded for Multiply {
    /// What each value is off by, times the other; the product itself by 1 in units of `u`, where it may
    /// be contracted with what follows.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        Ok(of.each(|index| {
            let [(a, of_a), (b, of_b)] = [0, 1].map(|input| of.inputs[input].element(index));
            let rounding = of_a[0] * b.abs() + of_b[0] * a.abs();
            let std = of.confidence.join(of_a[1] * b.abs(), of_b[1] * a.abs());
            [rounding, of.confidence.join(std, U * (a * b).abs())]
        }))
    }
}
