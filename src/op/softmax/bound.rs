//! How far probabilities may be off: every one depends on its whole row.

use super::Softmax;
use crate::error::Result;
use crate::op::bound::{Bounded, Confidence, ErrorBound, Evaluation, RowBound, U};

impl Bounded for Softmax {
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let scores = &of.inputs[0];
        let keys = scores.shape.last().copied().unwrap_or(1);
        let rows = Rows {
            scale: self.scale.into(),
            each: of.eager_roundoff(),
            confidence: of.confidence,
        };
        Ok(of.rows(keys, |row, emit| {
            let seen = self.mask.seen(row % keys, keys);
            let bound = scores.row_bound(row, keys);
            let bound = bound.map(|(rounding, std)| (&rounding[..seen], &std[..seen]));
            rows.error_bounds(&scores.row(row, keys)[..seen], bound, emit);
        }))
    }
}

/// A softmax of the scores that a row sees.
struct Rows {
    scale: f64,
    /// Unit roundoff of the type that every intermediate result is rounded to; 0 if none is.
    each: f64,
    confidence: Confidence,
}

impl Rows {
    /// `p = e^(c·s − max) / Σ`; `emit(index, rounding, std)` for every element, without the rounding
    /// of the result.
    ///
    /// An absolute error `d` of an exponent is a relative one of its exponential, so that
    /// `dp = p·(d − Σ p·d)`. In units of `u`: `c·s` is off by its magnitude where `c ≠ 1`, the
    /// difference to the maximum by its own, the exponential by 4 (CUDA's `expf`: 2 ulp), a sum of
    /// `n` terms of one sign by `√(n/3)` of itself (deterministic: `n`), the quotient by 1.
    fn error_bounds(
        &self,
        scores: &[f32],
        ds: RowBound<'_>,
        mut emit: impl FnMut(usize, f64, f64),
    ) {
        let confidence = self.confidence;
        let scaled: Vec<f64> = scores.iter().map(|s| self.scale * f64::from(*s)).collect();
        let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut probs: Vec<f64> = scaled.iter().map(|x| (x - max).exp()).collect();
        let sum: f64 = probs.iter().sum();
        probs.iter_mut().for_each(|p| *p /= sum);
        let count = scores.len() as f64;
        let of_sum = match confidence {
            Confidence::Probabilistic => (count / 3.0 + 1.0).sqrt(),
            Confidence::Deterministic => count + 1.0,
        };
        let of_scaling = if self.scale == 1.0 { 0.0 } else { 1.0 };
        let exponents: Vec<[f64; 2]> = (0..scores.len())
            .map(|index| {
                let (distance, scaled) = (max - scaled[index], scaled[index].abs());
                let magnitude = confidence.join(distance, of_scaling * scaled);
                let mut std = U * confidence.join(magnitude, 4.0);
                let mut rounding = self.each * (distance + of_scaling * scaled + 1.0);
                if let Some((roundings, stds)) = ds {
                    rounding += self.scale.abs() * f64::from(roundings[index]);
                    let of_score = self.scale.abs() * f64::from(stds[index]);
                    std = confidence.join(std, of_score);
                }
                [rounding, std]
            })
            .collect();
        let weighted = probs.iter().zip(&exponents);
        let shared: f64 = weighted
            .clone()
            .map(|(p, [rounding, _])| p * rounding)
            .sum();
        let shared_std = match confidence {
            Confidence::Probabilistic => {
                let squares = weighted.map(|(p, [_, std])| (p * std).powi(2));
                squares.sum::<f64>().sqrt()
            }
            Confidence::Deterministic => weighted.map(|(p, [_, std])| p * std).sum(),
        };
        for (index, [rounding, std]) in exponents.into_iter().enumerate() {
            let std = confidence.join(confidence.join(std, shared_std), U * of_sum);
            let rounding = rounding + shared + self.each;
            emit(index, probs[index] * rounding, probs[index] * std);
        }
    }
}
