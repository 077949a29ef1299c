//! How far attention scores may be off.

use super::{AlibiSum, AttentionScores};
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, Sums, U};
use crate::op::product::group_of;

impl Bounded for AttentionScores {
    /// The ALiBi bias is a tensor of the storage type that is added: its rounding counts.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let &[_, heads, positions, head_dim] = of.inputs[0].shape else {
            unreachable!("the step's shape was checked");
        };
        let product_scale = f64::from(self.product_scale);
        let groups = of.inputs[1].shape[1];
        let unit = of.storage_roundoff();
        let each = of.eager_roundoff();
        // Of products that are rounded before ALiBi is added.
        let first = match &self.alibi {
            Some(alibi) if alibi.sum == AlibiSum::Rounded => unit,
            _ => 0.0,
        };
        let confidence = of.confidence;
        Ok(of.rows(positions * positions, |head, emit| {
            let shape = [positions, head_dim];
            let query = of.inputs[0].matrix(head, shape);
            let key = of.inputs[1].matrix(group_of(head, heads, groups), shape);
            let sums = Sums::new(query, key, confidence, of.tensor_core());
            let bias = |query, key| {
                self.alibi.as_ref().map_or(0.0, |alibi| {
                    let bias = alibi.form.bias(alibi.slopes[head % heads], query, key);
                    f64::from(alibi.scale) * f64::from(bias)
                })
            };
            let scores = of.output.row(head, positions * positions);
            for (index, y) in scores.iter().enumerate() {
                let place = [index / positions, index % positions];
                let alibi = bias(place[0], place[1]);
                let product = f64::from(*y) - alibi;
                let [rounding, std] = sums.at(place, product / product_scale, head_dim);
                let in_fp32 = U * (product.abs() + alibi.abs());
                let std = confidence.join(product_scale.abs() * std, in_fp32);
                let rounding = product_scale.abs() * rounding
                    + unit * alibi.abs()
                    + first * product.abs()
                    + each * (2.0 * product.abs() + alibi.abs());
                emit(index, rounding, std);
            }
        }))
    }
}
