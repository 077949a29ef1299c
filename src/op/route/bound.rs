//! Which choices are undecided.

use super::{Route, RouterScores};
use crate::error::Result;
use crate::op::bound::{Bounded, ErrorBound, Evaluation, STDS, U};

/// What fp32 may make of a score, in units of `u` and of the score's magnitude or of 1, whichever is more: an
/// exponential is off by 4, a sum and a quotient by 1 each, and the sum with a bias by 1.
const OF_SCORES: f64 = 8.0;

impl Bounded for Route {
    /// A choice is decided where the scores of the chosen are above those of all others by more than both sides'
    /// scores may be off by; then it is exact. Where it is not, any choice is as good: its numbers are off by as
    /// much as there are experts.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound> {
        let logits = &of.inputs[0];
        let experts = logits.shape.last().copied().unwrap_or(1).max(1);
        Ok(of.rows(self.chosen.max(1), |row, emit| {
            if !self.is_undecided(of, row, experts) {
                return;
            }
            for place in 0..self.chosen {
                emit(place, experts as f64, 0.0);
            }
        }))
    }
}

impl Route {
    /// Whether either side's errors may have changed the choice for a token.
    fn is_undecided(&self, of: &Evaluation<'_>, row: usize, experts: usize) -> bool {
        let bias = of.params.first();
        let both = (0..experts).map(|expert| {
            let (logit, [rounding, std]) = of.inputs[0].element(row * experts + expert);
            let (score, slope) = match self.scores {
                RouterScores::Softmax => (logit, 1.0),
                RouterScores::Sigmoid => {
                    let score = 1.0 / (1.0 + (-logit).exp());
                    // The steepest on the way, a quarter at most.
                    (score, 0.25)
                }
            };
            let score = score + bias.map_or(0.0, |bias| bias.element(expert).0);
            let own = OF_SCORES * U * score.abs().max(1.0);
            (score, slope * (rounding + STDS * std) + own)
        });
        let (scores, errors): (Vec<f64>, Vec<f64>) = both.unzip();
        if scores.iter().any(|score| !score.is_finite()) {
            return true;
        }
        let choice = self.choose(&scores);
        let size = experts / choice.group_scores.len();
        // What a group's sum may be off by: by the errors of as many as it sums, wherever they are.
        let group_error = |group: usize| {
            let mut errors = errors[group * size..(group + 1) * size].to_vec();
            errors.sort_by(|a, b| b.total_cmp(a));
            let best = self.groups.map_or(0, |groups| groups.best);
            errors.iter().take(best).sum::<f64>()
        };
        let groups = 0..choice.group_scores.len();
        let is_close = |ours: (f64, f64), theirs: (f64, f64)| {
            // Both sides may be off by as much.
            ours.0 - theirs.0 <= 2.0 * (ours.1 + theirs.1)
        };
        let groups_are_close = groups.clone().any(|out| {
            !choice.groups.contains(&out)
                && choice.groups.iter().any(|group| {
                    let of = |group: usize| (choice.group_scores[group], group_error(group));
                    is_close(of(*group), of(out))
                })
        });
        let others = (0..experts).filter(|expert| {
            choice.groups.contains(&(expert / size)) && !choice.experts.contains(expert)
        });
        let of = |expert: usize| (scores[expert], errors[expert]);
        groups_are_close
            || others
                .flat_map(|other| choice.experts.iter().map(move |chosen| (*chosen, other)))
                .any(|(chosen, other)| is_close(of(chosen), of(other)))
    }
}
