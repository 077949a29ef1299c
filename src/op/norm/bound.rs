//! How far norms may be off: every element depends on its whole row.

use super::Norm;
use crate::op::bound::{Confidence, ErrorBound, Evaluation, RowBound, U};

impl Norm {
    pub(in crate::op) fn error_bound(self, of: &Evaluation<'_>) -> ErrorBound {
        let [x, weight] = [&of.inputs[0], &of.params[0]];
        let width = weight.values.len();
        let rows = Rows {
            norm: self,
            before_weight: of.eager_roundoff(),
            weight: &weight.values,
            weight_bound: weight.row_bound(0, width),
            bias_bound: of.params.get(1).and_then(|bias| bias.row_bound(0, width)),
            confidence: of.confidence,
        };
        of.rows(width, |row, emit| {
            rows.error_bounds(x.row(row, width), x.row_bound(row, width), emit);
        })
    }
}

/// A norm of rows that share their parameters.
struct Rows<'a> {
    norm: Norm,
    /// Unit roundoff of the type that the normalized value is rounded to before it is multiplied
    /// by the weight; 0 if it is not.
    before_weight: f64,
    weight: &'a [f32],
    weight_bound: RowBound<'a>,
    bias_bound: RowBound<'a>,
    confidence: Confidence,
}

impl Rows<'_> {
    /// `y = (x − μ)·r·w + b` with `r = 1/√(v + ε)`; `emit(index, rounding, std)` for every element,
    /// without the rounding of the result.
    ///
    /// In units of `u`: the mean of `n` terms is off by its sum's error over `n`, which is
    /// `√(n·μ²/3 + m₂/6)` for the mean square `m₂` (see `op/bound/sums.rs`); the variance, a sum of
    /// terms of one sign, by `√(n/3 + 4)` of itself, times `m₂/v` where it is computed as `m₂ − μ²`,
    /// so that `r` is off by half of that, times `v/(v + ε)`, and 2 for the root and the
    /// quotient; differences and products by 1 each. Deterministic: `n` in place of the roots, and
    /// sums instead of roots of sums of squares.
    fn error_bounds(&self, x: &[f32], dx: RowBound<'_>, mut emit: impl FnMut(usize, f64, f64)) {
        let confidence = self.confidence;
        let count = x.len() as f64;
        let sum = |term: &dyn Fn(f64) -> f64| x.iter().map(|x| term((*x).into())).sum::<f64>();
        let squares = sum(&|x| x * x) / count;
        let (mean, variance) = if self.norm.centred {
            let mean = sum(&|x| x) / count;
            (mean, sum(&|x| (x - mean) * (x - mean)) / count)
        } else {
            (0.0, squares)
        };
        let scale = 1.0 / (variance + self.norm.eps).sqrt();
        let of_mean = match (self.norm.centred, confidence) {
            (false, _) => 0.0,
            (true, Confidence::Probabilistic) => (count * mean * mean / 3.0 + squares / 6.0).sqrt(),
            (true, Confidence::Deterministic) => count * sum(&f64::abs) / count,
        };
        let growth = match confidence {
            Confidence::Probabilistic => (count / 3.0 + 4.0).sqrt(),
            Confidence::Deterministic => count + 4.0,
        };
        // m₂/v · v/(v + ε): no division by a variance of zero.
        let of_scale = confidence.join(0.5 * growth * squares / (variance + self.norm.eps), 2.0);

        // The row's share in what an input's error bound does: dy = r·w·(dx − mean dx − x̂·mean(x̂·dx)).
        let normalized = |index: usize| (f64::from(x[index]) - mean) * scale;
        let shared = |dx: &[f32], power: i32| {
            let means = dx.iter().enumerate().map(|(index, dx)| {
                let dx = f64::from(*dx);
                let first = if self.norm.centred { dx } else { 0.0 };
                [
                    first.powi(power),
                    (normalized(index) * dx).abs().powi(power),
                ]
            });
            let sums = means.fold([0.0; 2], |sum, term| [sum[0] + term[0], sum[1] + term[1]]);
            sums.map(|sum| sum / count.powi(power))
        };
        let power = match confidence {
            Confidence::Probabilistic => 2,
            Confidence::Deterministic => 1,
        };
        let shares = dx.map(|(rounding, std)| {
            let std_shares = shared(std, power).map(|sum| sum.powf(1.0 / f64::from(power)));
            (shared(rounding, 1), std_shares)
        });

        for index in 0..x.len() {
            let weight = f64::from(self.weight[index]).abs();
            let hat = normalized(index).abs();
            let own = confidence.join(confidence.join(of_scale, 2.0), 1.0) * hat;
            let mut std = U * confidence.join(own, of_mean * scale) * weight;
            let mut rounding = self.before_weight * hat * weight;
            if let (Some((dx, stds)), Some((shared, shared_std))) = (dx, shares) {
                let add = |own: f32, share: [f64; 2]| f64::from(own) + share[0] + hat * share[1];
                rounding += scale * weight * add(dx[index], shared);
                std = confidence.join(std, scale * weight * add(stds[index], shared_std));
            }
            for (factor, row) in [(hat, self.weight_bound), (1.0, self.bias_bound)] {
                if let Some((dw, stds)) = row {
                    rounding += factor * f64::from(dw[index]);
                    std = confidence.join(std, factor * f64::from(stds[index]));
                }
            }
            emit(index, rounding, std);
        }
    }
}
