//! How far values with a bias may be off.

use super::AddBias;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation};

impl Bounded for AddBias {
    /// As far as the value and its bias together: one addition is the same everywhere.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let (x, bias) = (&of.inputs[0], &of.params[0]);
        let width = bias.values.len();
        Ok(of.each(|index| {
            let [x, bias] = [x.element(index).1, bias.element(index % width).1];
            of.confidence.sum(x, bias)
        }))
    }
}
