//! How far attention scores may be off.

use super::AttentionScores;
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, Sums, U};

impl Bounded for AttentionScores {
    /// The ALiBi bias is a tensor of the storage type that is added: its rounding counts.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let &[.., positions, head_dim] = of.inputs[0].shape else {
            unreachable!("the step's shape was checked");
        };
        let [product_scale, alibi_scale] = [self.product_scale, self.alibi_scale].map(f64::from);
        let unit = of.storage_roundoff();
        let each = of.eager_roundoff();
        let confidence = of.confidence;
        Ok(of.rows(positions * positions, |head, emit| {
            let [query, key] =
                [0, 1].map(|input| of.inputs[input].matrix(head, [positions, head_dim]));
            let sums = Sums::new(query, key, confidence);
            let slope = self.alibi_slopes[head % self.alibi_slopes.len()];
            let scores = of.output.row(head, positions * positions);
            for (index, y) in scores.iter().enumerate() {
                let place = [index / positions, index % positions];
                let bias = self.alibi_form.bias(slope, place[0], place[1]);
                let alibi = alibi_scale * f64::from(bias);
                let product = f64::from(*y) - alibi;
                let [rounding, std] = sums.at(place, product / product_scale, head_dim);
                let in_fp32 = U * (product.abs() + alibi.abs());
                let std = confidence.join(product_scale.abs() * std, in_fp32);
                let rounding = product_scale.abs() * rounding
                    + unit * alibi.abs()
                    + each * (2.0 * product.abs() + alibi.abs());
                emit(index, rounding, std);
            }
        }))
    }
}
