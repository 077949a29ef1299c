//! How far weighted rows may be off.

use super::{Weigh, share};
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, U};

impl Bounded for Weigh {
    /// What each factor is off by, times the other; the product itself by 1 in units of `u`.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let share = share(of.inputs[0].shape, of.inputs[1].shape);
        Ok(of.each(|index| {
            let (x, of_x) = of.inputs[0].element(index);
            let (weight, of_weight) = of.inputs[1].element(index / share);
            let rounding = of_x[0] * weight.abs() + of_weight[0] * x.abs();
            let std = of
                .confidence
                .join(of_x[1] * weight.abs(), of_weight[1] * x.abs());
            [rounding, of.confidence.join(std, U * (x * weight).abs())]
        }))
    }
}
