//! How far sums of two values may be off.

use super::Add;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation};

impl Bounded for Add {
    /// As far as both values together: one addition is the same everywhere.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        Ok(of.each(|index| {
            let [a, b] = [0, 1].map(|input| of.inputs[input].element(index).1);
            of.confidence.sum(a, b)
        }))
    }
}
