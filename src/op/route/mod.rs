//! Which experts a router chooses.

mod bound;
mod cpu;
mod cuda;
mod fp64;

pub(super) use cpu::sigmoid;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;

/// logits `[b, s, e]`, correction bias `[e]` if there is one → `[b, s, k]`: the numbers of the `k` experts with
/// the highest scores, ascending. Numbers are whole ones in fp32, which holds all below 2^24.
///
/// Scores are compared as they are computed, in fp32; of equal ones the lower number comes first, where frameworks
/// follow no rule. Softmax keeps the order of the logits, which are compared in its place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Route {
    /// How many are chosen for every token.
    pub chosen: usize,
    /// What is made of the logits.
    pub scores: RouterScores,
    /// Whether experts of some groups alone are chosen from.
    pub groups: Option<RouterGroups>,
    /// Whether a bias is added to the scores, for the choice alone.
    pub bias: bool,
}

/// What a router makes of its logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterScores {
    /// Their softmax.
    Softmax,
    /// The sigmoid of each.
    Sigmoid,
}

/// Experts in groups of one size, of which the best are chosen first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RouterGroups {
    /// How many groups there are.
    pub count: usize,
    /// How many of them are chosen from.
    pub chosen: usize,
    /// A group's score is the sum of so many of its best.
    pub best: usize,
}

impl Operation for Route {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        let ([[rows @ .., experts]], biases) = (inputs, params) else {
            return None;
        };
        let biased = match biases {
            [] => !self.bias,
            [[width]] => self.bias && width == experts,
            _ => false,
        };
        let grouped = self.groups.is_none_or(|groups| {
            let fits = groups.count > 0 && experts.is_multiple_of(groups.count);
            fits && groups.chosen <= groups.count
                && groups.best <= experts / groups.count
                && self.chosen <= groups.chosen * (experts / groups.count)
        });
        let enough = self.chosen <= *experts;
        (biased && grouped && enough).then(|| super::extended(rows, self.chosen))
    }

    fn locality(&self) -> Locality {
        Locality::Row
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, _: DividedBy) -> String {
        format!("{self:?};")
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "top {} of the {}", self.chosen, self.scores)?;
        if self.bias {
            f.write_str(" + bias")?;
        }
        match self.groups {
            Some(RouterGroups {
                count,
                chosen,
                best,
            }) => write!(f, ", in {chosen} of {count} groups by their {best} best"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RouterScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Softmax => "softmax",
            Self::Sigmoid => "sigmoid",
        })
    }
}

/// A choice among a token's scores.
struct Choice {
    /// The chosen ones, ascending.
    experts: Vec<usize>,
    /// The chosen groups, ascending; all of them if there are none.
    groups: Vec<usize>,
    /// Of every group.
    group_scores: Vec<f64>,
}

impl Route {
    /// What is chosen among a token's scores.
    fn choose(&self, scores: &[f64]) -> Choice {
        let Some(groups) = self.groups else {
            return Choice {
                experts: best(self.chosen, scores, |_| true),
                groups: vec![0],
                group_scores: vec![0.0],
            };
        };
        let size = (scores.len() / groups.count).max(1);
        let group_scores: Vec<f64> = scores
            .chunks(size)
            .map(|group| {
                let best = best(groups.best, group, |_| true);
                // As frameworks sum the few: in fp32, which fp64 leaves where it is exact.
                best.iter().map(|index| group[*index]).sum()
            })
            .collect();
        let chosen = best(groups.chosen, &group_scores, |_| true);
        Choice {
            experts: best(self.chosen, scores, |expert| {
                chosen.contains(&(expert / size))
            }),
            groups: chosen,
            group_scores,
        }
    }
}

/// The places of the `count` largest ones, ascending; of equal ones the first come first.
fn best(count: usize, scores: &[f64], may_be: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).filter(|place| may_be(*place)).collect();
    // NaN is above all, as torch has it.
    let descending = |a: &usize, b: &usize| {
        let (a, b) = (scores[*a], scores[*b]);
        match (a.is_nan(), b.is_nan()) {
            (false, false) => b.partial_cmp(&a).unwrap_or(Ordering::Equal),
            (a, b) => b.cmp(&a),
        }
    };
    places.sort_by(descending);
    places.truncate(count);
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Route = Route {
        chosen: 2,
        scores: RouterScores::Softmax,
        groups: None,
        bias: false,
    };

    #[test]
    fn the_best_are_chosen_and_the_first_of_equals() {
        let of = |scores: &[f64]| PLAIN.choose(scores).experts;
        assert_eq!(of(&[1.0, 3.0, 2.0, 0.0]), [1, 2]);
        assert_eq!(of(&[3.0, 1.0, 2.0, 2.0]), [0, 2]);
        assert_eq!(of(&[f64::NAN, 1.0, 2.0, 3.0]), [0, 3]);
    }

    #[test]
    fn groups_are_chosen_before_their_experts() {
        let route = Route {
            groups: Some(RouterGroups {
                count: 2,
                chosen: 1,
                best: 2,
            }),
            ..PLAIN
        };
        // The best of all is in the group whose two best are less.
        assert_eq!(
            route.choose(&[9.0, 0.0, 1.0, 6.0, 5.0, 1.0]).experts,
            [3, 4]
        );
    }
}
