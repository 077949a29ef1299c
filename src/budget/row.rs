//! Norms and softmax: every element depends on its whole row.

use super::U;
use super::error_bound::Confidence;

/// Deviations of the elements of a row, if it has any.
pub(super) type Row<'a> = Option<(&'a [f32], &'a [f32])>;

/// A norm of one row.
pub(super) struct Norm<'a> {
    pub(super) eps: f64,
    pub(super) centred: bool,
    /// Unit roundoff of the type that the normalized value is rounded to before it is multiplied
    /// by the weight; 0 if it is not.
    pub(super) before_weight: f64,
    pub(super) weight: &'a [f32],
    pub(super) weight_deviation: Row<'a>,
    pub(super) bias_deviation: Row<'a>,
    pub(super) confidence: Confidence,
}

impl Norm<'_> {
    /// `y = (x − μ)·r·w + b` with `r = 1/√(v + ε)`; `emit(index, rounding, standard deviation)` for every
    /// element, without the rounding of the result.
    ///
    /// In units of `u`: the mean of `n` terms is off by its sum's error over `n`, which is
    /// `√(n·μ²/3 + m₂/6)` for the mean square `m₂` (see the module on products); the variance, a sum
    /// of terms of one sign, by `√(n/3 + 4)` of itself, times `m₂/v` where it is computed as
    /// `m₂ − μ²`, so that `r` is off by half of that, times `v/(v + ε)`, and 2 for the root and the
    /// quotient; differences and products by 1 each. Deterministic: `n` in place of the roots, and
    /// sums instead of roots of sums of squares.
    pub(super) fn error_bounds(
        &self,
        x: &[f32],
        dx: Row<'_>,
        mut emit: impl FnMut(usize, f64, f64),
    ) {
        let confidence = self.confidence;
        let count = x.len() as f64;
        let sum = |term: &dyn Fn(f64) -> f64| x.iter().map(|x| term((*x).into())).sum::<f64>();
        let squares = sum(&|x| x * x) / count;
        let (mean, variance) = match self.centred {
            true => {
                let mean = sum(&|x| x) / count;
                (mean, sum(&|x| (x - mean) * (x - mean)) / count)
            }
            false => (0.0, squares),
        };
        let scale = 1.0 / (variance + self.eps).sqrt();
        let of_mean = match (self.centred, confidence) {
            (false, _) => 0.0,
            (true, Confidence::Probabilistic) => (count * mean * mean / 3.0 + squares / 6.0).sqrt(),
            (true, Confidence::Deterministic) => count * sum(&f64::abs) / count,
        };
        let growth = match confidence {
            Confidence::Probabilistic => (count / 3.0 + 4.0).sqrt(),
            Confidence::Deterministic => count + 4.0,
        };
        // m₂/v · v/(v + ε): no division by a variance of zero.
        let of_scale = confidence.join(0.5 * growth * squares / (variance + self.eps), 2.0);

        // The row's share in what an input's error bound does: dy = r·w·(dx − mean dx − x̂·mean(x̂·dx)).
        let normalized = |index: usize| (f64::from(x[index]) - mean) * scale;
        let shared = |dx: &[f32], power: i32| {
            let means = dx.iter().enumerate().map(|(index, dx)| {
                let dx = f64::from(*dx);
                let first = if self.centred { dx } else { 0.0 };
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
            let of_spread = shared(std, power).map(|sum| sum.powf(1.0 / f64::from(power)));
            (shared(rounding, 1), of_spread)
        });

        for index in 0..x.len() {
            let weight = f64::from(self.weight[index]).abs();
            let hat = normalized(index).abs();
            let own = confidence.join(confidence.join(of_scale, 2.0), 1.0) * hat;
            let mut std = U * confidence.join(own, of_mean * scale) * weight;
            let mut rounding = self.before_weight * hat * weight;
            if let (Some((dx, stds)), Some((shared, shared_spread))) = (dx, shares) {
                let add = |own: f32, share: [f64; 2]| f64::from(own) + share[0] + hat * share[1];
                rounding += scale * weight * add(dx[index], shared);
                std = confidence.join(std, scale * weight * add(stds[index], shared_spread));
            }
            for (factor, row) in [(hat, self.weight_deviation), (1.0, self.bias_deviation)] {
                if let Some((dw, stds)) = row {
                    rounding += factor * f64::from(dw[index]);
                    std = confidence.join(std, factor * f64::from(stds[index]));
                }
            }
            emit(index, rounding, std);
        }
    }
}

/// Softmax of one row's visible scores.
pub(super) struct Softmax {
    pub(super) scale: f64,
    /// Unit roundoff of the type that every intermediate result is rounded to; 0 if none is.
    pub(super) each: f64,
    pub(super) confidence: Confidence,
}

impl Softmax {
    /// `p = e^(c·s − max) / Σ`; `emit(index, rounding, standard deviation)` for every element, without the
    /// rounding of the result.
    ///
    /// An absolute error `d` of an exponent is a relative one of its exponential, so that
    /// `dp = p·(d − Σ p·d)`. In units of `u`: `c·s` is off by its magnitude where `c ≠ 1`, the
    /// difference to the maximum by its own, the exponential by 4 (CUDA's `expf`: 2 ulp), a sum of
    /// `n` terms of one sign by `√(n/3)` of itself (deterministic: `n`), the quotient by 1.
    pub(super) fn error_bounds(
        &self,
        scores: &[f32],
        ds: Row<'_>,
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
        let shared_spread = match confidence {
            Confidence::Probabilistic => {
                let squares = weighted.map(|(p, [_, std])| (p * std).powi(2));
                squares.sum::<f64>().sqrt()
            }
            Confidence::Deterministic => weighted.map(|(p, [_, std])| p * std).sum(),
        };
        for (index, [rounding, std]) in exponents.into_iter().enumerate() {
            let std = confidence.join(confidence.join(std, shared_spread), U * of_sum);
            let rounding = rounding + shared + self.each;
            emit(index, probs[index] * rounding, probs[index] * std);
        }
    }
}
