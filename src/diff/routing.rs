//! Choices of experts: which tokens' differ, and whether that is noise.
//!
//! A router's scores are off by a little on both sides, so that a choice between scores that are closer than that
//! may fall either way. Isolated, the scores' error bounds say how close that is
//! ([`Route`]'s bound); chained, how far the logits of the two sides are apart at the token. What has flipped by noise
//! is no difference of the models, but all that is computed after it would be: a chained run goes on with the
//! reference's choice there, and says so.

use crate::case::Mode;
use crate::error::Result;
use crate::op::Route;
use crate::tensor::Tensor;
use std::fmt;

/// What has come out of comparing the choices of a router.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoutingResult {
    /// Tokens that were routed.
    pub tokens: usize,
    /// Tokens whose experts differ, though their scores may be off by as much as they are apart.
    pub undecided: usize,
    /// By how much, at most, the scores of such a token's experts are apart.
    pub margin: f64,
    /// Tokens whose experts differ by more than that.
    pub wrong: usize,
    /// By how much these are apart, at most.
    pub wrong_margin: f64,
}

/// The choices of both sides, and what the candidate's was made from.
pub(super) struct Choices<'a> {
    pub(super) route: &'a Route,
    /// The candidate's logits.
    pub(super) logits: &'a Tensor,
    /// The correction bias, if there is one.
    pub(super) bias: Option<&'a Tensor>,
    pub(super) ours: &'a Tensor,
    pub(super) theirs: &'a Tensor,
}

/// What tells noise from a difference.
pub(super) enum Noise<'a> {
    /// Elements of the choice that may be anything, by its error bound.
    Bound(&'a [f32]),
    /// The reference's logits; a difference is noise that they explain.
    Logits(&'a Tensor),
    /// Nothing is known: no difference is noise.
    Unknown,
}

impl Choices<'_> {
    /// Compares the choices; gives the candidate's with the reference's in place of what flipped by noise, too.
    pub(super) fn compare(&self, noise: &Noise<'_>) -> Result<(RoutingResult, Tensor)> {
        let chosen = self.ours.row_len().max(1);
        let experts = self.logits.row_len().max(1);
        let wide = Tensor::widened;
        let [logits, ours, theirs] = [wide(self.logits)?, wide(self.ours)?, wide(self.theirs)?];
        let [logits, ours, theirs] = [&logits, &ours, &theirs].map(Tensor::as_slice::<f64>);
        let (logits, ours, theirs) = (logits?, ours?, theirs?);
        let bias = self.bias.map(wide).transpose()?;
        let bias = bias.as_ref().map(Tensor::as_slice::<f64>).transpose()?;
        let reference = match noise {
            Noise::Logits(logits) => Some(wide(logits)?),
            _ => None,
        };
        let reference = reference
            .as_ref()
            .map(Tensor::as_slice::<f64>)
            .transpose()?;
        let mut merged: Vec<f32> = ours.iter().map(|number| *number as f32).collect();
        let mut result = RoutingResult {
            tokens: ours.len() / chosen,
            undecided: 0,
            margin: 0.0,
            wrong: 0,
            wrong_margin: 0.0,
        };
        for token in 0..result.tokens {
            let own = token * chosen..(token + 1) * chosen;
            let (mine, its) = (&ours[own.clone()], &theirs[own.clone()]);
            if mine == its {
                continue;
            }
            let row = token * experts..(token + 1) * experts;
            let scores = self.route.scores(&logits[row.clone()], bias);
            let only = |of: &[f64], not: &[f64]| -> Vec<usize> {
                let only = of.iter().filter(|number| !not.contains(number));
                let numbers = only.map(|number| *number as usize);
                numbers.filter(|number| *number < experts).collect()
            };
            let (mine, its) = (only(mine, its), only(its, mine));
            let pairs = || mine.iter().flat_map(|a| its.iter().map(move |b| (*a, *b)));
            let margin = pairs()
                .map(|(a, b)| scores[a] - scores[b])
                .fold(0.0, f64::max);
            let is_noise = match noise {
                Noise::Unknown => false,
                Noise::Bound(bound) => bound[own.clone()].iter().any(|bound| *bound >= 1.0),
                Noise::Logits(_) => reference.is_some_and(|reference| {
                    let theirs = self.route.scores(&reference[row], bias);
                    // As far apart on either side as the two sides are, at most. fp32 leaves a little of it.
                    let apart = |expert: usize| (scores[expert] - theirs[expert]).abs();
                    let most = (0..experts).map(apart).fold(0.0, f64::max);
                    let groups = self.route.groups.map_or(1, |groups| groups.best) as f64;
                    margin <= 2.0 * groups * most + f64::from(f32::EPSILON)
                }),
            };
            if is_noise {
                result.undecided += 1;
                result.margin = result.margin.max(margin);
                for (to, from) in merged[own.clone()].iter_mut().zip(&theirs[own]) {
                    *to = *from as f32;
                }
            } else {
                result.wrong += 1;
                result.wrong_margin = result.wrong_margin.max(margin);
            }
        }
        Ok((result, Tensor::from_vec(self.ours.shape(), merged)?))
    }
}

impl RoutingResult {
    /// What a reader should know of it in a mode, if anything.
    pub(super) fn note(&self, mode: Mode) -> Option<String> {
        if self.undecided == 0 {
            return None;
        }
        let Self {
            tokens,
            undecided,
            margin,
            ..
        } = self;
        let of = format!("{undecided} of {tokens} tokens have other experts by noise");
        Some(match mode {
            Mode::Isolated => format!(
                "{of}: their scores are {margin:.1e} apart at most, and may be off by as much on both sides"
            ),
            Mode::Chained | Mode::Recorded => format!(
                "{of}: their scores are {margin:.1e} apart at most, the two sides' logits as much; compared \
                 further with the reference's choice"
            ),
        })
    }
}

impl fmt::Display for RoutingResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} tokens have other experts, their scores up to {:.1e} apart, which is more than noise makes",
            self.wrong, self.tokens, self.wrong_margin
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::RouterScores;

    #[test]
    fn a_flip_is_noise_where_the_logits_explain_it() {
        let route = Route {
            chosen: 1,
            scores: RouterScores::Softmax,
            groups: None,
            bias: false,
        };
        let of = |values: [f32; 4]| Tensor::from_vec(&[1, 2, 2], values.to_vec()).unwrap();
        let choice = |values: [f32; 2]| Tensor::from_vec(&[1, 2, 1], values.to_vec()).unwrap();
        let (logits, reference) = (of([1.0, 1.1, 3.0, 1.0]), of([1.0, 0.9, 3.0, 1.0]));
        let choices = Choices {
            route: &route,
            logits: &logits,
            bias: None,
            ours: &choice([1.0, 0.0]),
            theirs: &choice([0.0, 1.0]),
        };
        let (result, merged) = choices.compare(&Noise::Logits(&reference)).unwrap();
        assert_eq!((result.undecided, result.wrong, result.tokens), (1, 1, 2));
        approx::assert_abs_diff_eq!(result.margin, 0.1, epsilon = 1e-6);
        assert_eq!(result.wrong_margin, 2.0);
        // The first as the reference has it, the second as it is.
        assert_eq!(merged.as_slice::<f32>().unwrap(), [0.0, 0.0]);
        let (result, _) = choices.compare(&Noise::Bound(&[2.0, 0.0])).unwrap();
        assert_eq!((result.undecided, result.wrong), (1, 1));
        let (result, _) = choices.compare(&Noise::Unknown).unwrap();
        assert_eq!((result.undecided, result.wrong), (0, 2));
    }
}
