//! How far products with a weight may be off.

use super::Linear;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, Sums};

impl Bounded for Linear {
    /// Sums of `k` products, and what rounding the partial ones does.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let (x, weight) = (&of.inputs[0], &of.params[0]);
        let &[width, k] = weight.shape else {
            unreachable!("the step's shape was checked");
        };
        let rows = x.values.len().checked_div(k).unwrap_or(0);
        let sums = Sums::new(
            x.matrix(0, [rows, k]),
            weight.matrix(0, [width, k]),
            of.confidence,
            of.tensor_core(),
        );
        let unit = of.storage_roundoff();
        let bias = of.params.get(1);
        Ok(of.grid(width, |row, column, y| {
            // The sum alone: a bias may cancel it, not its error.
            let y = y - bias.map_or(0.0, |bias| bias.element(column).0);
            let [mut rounding, mut std] = sums.at([row, column], y, k);
            if self.partials.count > 1 {
                rounding += sums.partial_roundings([row, column], y, self.partials.count, unit);
            }
            if let Some(bias) = bias.filter(|bias| bias.error_bound.is_some()) {
                let [bias_rounding, bias_std] = bias.element(column).1;
                rounding += bias_rounding;
                std = of.confidence.join(std, bias_std);
            }
            [rounding, std]
        }))
    }
}
