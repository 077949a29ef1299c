//! How far sums of experts may be off.

use super::SumExperts;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, U};
use crate::op::choice::choice_of;

impl Bounded for SumExperts {
    /// What every term is off by; and of every partial sum 1 in units of `u`, and of the unit roundoff of the type
    /// that it is rounded to, if it is.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let x = &of.inputs[0];
        let choice = choice_of(of.inputs[1].tensor, self.experts)?;
        let chosen = of.inputs[1].shape.last().copied().unwrap_or(1).max(1);
        let width = x.shape.last().copied().unwrap_or(1);
        let columns = (width / (chosen * self.parts)).max(1);
        let (each, once) = (of.eager_roundoff(), of.storage_roundoff());
        Ok(of.grid(columns, |token, column, _| {
            let terms = self.terms(&choice[token * chosen..(token + 1) * chosen]);
            let ranks = terms.of_ranks.len();
            let mut total = [0.0; 2];
            let mut all = 0.0;
            for terms in terms.of_ranks {
                let mut sum = 0.0_f64;
                for (number, term) in terms.iter().enumerate() {
                    let (value, bound) = x.element(token * width + term * columns + column);
                    sum += value;
                    total = of.confidence.sum(total, bound);
                    // The first is added to nothing.
                    if number > 0 {
                        let own = [each * sum.abs(), U * sum.abs()];
                        total = of.confidence.sum(total, own);
                    }
                }
                if ranks > 1 {
                    all += sum;
                    let own = [once * sum.abs(), U * f64::abs(all)];
                    total = of.confidence.sum(total, own);
                }
            }
            total
        }))
    }
}
