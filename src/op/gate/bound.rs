//! How far gated values may be off.

use super::Gate;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, RunningError, U};
use crate::op::formula::Formula;

impl Bounded for Gate {
    /// The activation, rounded if every operation is, times what it gates.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let (each, confidence) = (of.eager_roundoff(), of.confidence);
        Ok(of.each(|index| {
            let (value, bound) = of.inputs[0].element(index);
            let (up, [up_rounding, up_std]) = of.inputs[1].element(index);
            let gate = RunningError::new(value, bound, 0.0, confidence);
            let gate = self.activation.evaluate(gate);
            let rounding = gate.rounding + each * gate.value.abs();
            let stds = [gate.std() * up.abs(), up_std * gate.value.abs()];
            let product = U * (gate.value * up).abs();
            let std = confidence.join(stds[0], stds[1]);
            [
                rounding * up.abs() + up_rounding * gate.value.abs(),
                confidence.join(std, product),
            ]
        }))
    }
}
