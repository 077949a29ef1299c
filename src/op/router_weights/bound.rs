//! How far weights of chosen experts may be off.

use super::RouterWeights;
use crate::error::Result;
use crate::op::RouterScores;
use crate::op::bound::{Bounded, Confidence, ErrorBound, Evaluation, U};
use crate::op::choice::choice_of;

impl Bounded for RouterWeights {
    /// An absolute error `d` of a logit is a relative one of its exponential, and of a sigmoid `(1 − σ)·d`. A
    /// quotient by a sum takes on the mean of its terms' relative errors, weighted by them: at most the largest.
    /// In units of `u`: an exponential is off by 4 (CUDA's `expf`: 2 ulp) and the distance to the maximum, sums by
    /// as much as they have terms at most, quotients and products by 1 each.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let logits = &of.inputs[0];
        let experts = logits.shape.last().copied().unwrap_or(1).max(1);
        let chosen = of.inputs[1].shape.last().copied().unwrap_or(1).max(1);
        let choice = choice_of(of.inputs[1].tensor, experts)?;
        Ok(of.rows(chosen, |row, emit| {
            let choice = &choice[row * chosen..(row + 1) * chosen];
            let all: Vec<(f64, [f64; 2])> = (0..experts)
                .map(|expert| logits.element(row * experts + expert))
                .collect();
            let values: Vec<f64> = all.iter().map(|(logit, _)| *logit).collect();
            let weights = self.exact(&values, choice);
            let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let relative = |expert: usize| -> [f64; 2] {
                let (logit, [rounding, std]) = all[expert];
                let (slope, own) = match self.scores {
                    RouterScores::Softmax => (1.0, 4.0 + (max - logit)),
                    RouterScores::Sigmoid => (1.0 / (1.0 + logit.exp()), 6.0),
                };
                [slope * rounding, of.confidence.join(slope * std, own * U)]
            };
            let summed: Vec<usize> = match (self.normalized || self.of_chosen, self.scores) {
                (true, _) => choice.to_vec(),
                (false, RouterScores::Softmax) => (0..experts).collect(),
                (false, RouterScores::Sigmoid) => Vec::new(),
            };
            let of_sum = summed.iter().map(|expert| relative(*expert));
            let of_sum = of_sum.fold([0.0_f64; 2], |most, one| {
                [most[0].max(one[0]), most[1].max(one[1])]
            });
            let terms = summed.len() as f64;
            let own = match of.confidence {
                Confidence::Probabilistic => (terms + 4.0).sqrt(),
                Confidence::Deterministic => terms + 4.0,
            };
            for (place, (expert, weight)) in choice.iter().zip(weights).enumerate() {
                let [rounding, std] = of.confidence.sum(relative(*expert), of_sum);
                let std = of.confidence.join(std, own * U);
                emit(place, rounding * weight.abs(), std * weight.abs());
            }
        }))
    }
}
