//! Statistics of an array, as published references have them.

use super::Projection;
use super::kernel::{Side, per_segment, segment, segments};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, with_element};
use std::num::NonZeroUsize;

/// Statistics over the last axis of every token (of every row, whatever it stands for), and means
/// over all tokens of equal slices of the last axis. A reference may hold some of them only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Mean of every token.
    pub token_mean: Option<Vec<f64>>,
    /// Least value of every token.
    pub token_min: Option<Vec<f64>>,
    /// Greatest value of every token.
    pub token_max: Option<Vec<f64>>,
    /// Sum of every token.
    pub token_sum: Option<Vec<f64>>,
    /// Mean over all tokens of every tensor-parallel slice of the vocabulary.
    pub vocab_shard_mean: Option<Vec<f64>>,
    /// Every token's projection, where it was asked for.
    pub token_projection: Option<Projection>,
}

/// Largest absolute difference of each statistic that both sides have; NaN against a number is
/// infinitely far, NaN against NaN is no difference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StatisticsDifference {
    /// Of the means.
    pub token_mean: Option<f64>,
    /// Of the least values.
    pub token_min: Option<f64>,
    /// Of the greatest values.
    pub token_max: Option<f64>,
    /// Of the sums.
    pub token_sum: Option<f64>,
    /// Of the means of vocabulary slices.
    pub vocab_shard_mean: Option<f64>,
    /// Of the projections.
    pub token_projection: Option<f64>,
}

impl Statistics {
    /// All statistics of an array; means of vocabulary slices if `vocab_shards` says how many.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the last axis cannot be cut so.
    pub fn new(tensor: &Tensor, vocab_shards: Option<NonZeroUsize>) -> Result<Self> {
        let shards = shard_count(tensor.row_len(), vocab_shards)?;
        let pieces = segments(tensor.row_len(), shards);
        let sides: Vec<Side> = with_element!(tensor.dtype(), T => {
            let values = tensor.as_slice::<T>()?;
            per_segment(values, values, tensor.row_len(), &pieces, |r, c| segment(r, c, None).reference)
        });
        Ok(Self::merge(
            &sides,
            tensor.row_len(),
            pieces.len(),
            vocab_shards,
        ))
    }

    /// Statistics from those of segments, `pieces` to a row of `row` elements.
    pub(super) fn merge(
        sides: &[Side],
        row: usize,
        pieces: usize,
        vocab_shards: Option<NonZeroUsize>,
    ) -> Self {
        let rows = || sides.chunks(pieces.max(1));
        let column = |of_row: &dyn Fn(&[Side]) -> f64| Some(rows().map(of_row).collect::<Vec<_>>());
        let sum = |sides: &[Side]| sides.iter().map(|side| side.sum).sum::<f64>();
        // A NaN wins over every number.
        let pick = |sides: &[Side], of: fn(&Side) -> f64, better: fn(f64, f64) -> bool| {
            let values = sides.iter().map(of);
            values
                .reduce(|a, b| if a.is_nan() || better(a, b) { a } else { b })
                .unwrap_or(f64::NAN)
        };
        let shard_mean = vocab_shards.map(|shards| {
            let in_shard = pieces / shards.get().max(1);
            let elements = (sides.len() / pieces.max(1)) * (row / shards.get());
            let of_shard = |shard: usize| {
                let sides = rows().flat_map(|row| &row[shard * in_shard..(shard + 1) * in_shard]);
                sides.map(|side| side.sum).sum::<f64>() / elements as f64
            };
            (0..shards.get()).map(of_shard).collect()
        });
        Self {
            token_mean: column(&|sides| sum(sides) / row as f64),
            token_min: column(&|sides| pick(sides, |side| side.min, |a, b| a < b)),
            token_max: column(&|sides| pick(sides, |side| side.max, |a, b| a > b)),
            token_sum: column(&sum),
            vocab_shard_mean: shard_mean,
            token_projection: None,
        }
    }

    /// The same with the projection of every token of their array.
    ///
    /// # Errors
    /// As [`Projection::new`].
    pub fn with_projection(self, tensor: &Tensor, seed: u64) -> Result<Self> {
        let token_projection = Some(Projection::new(tensor, seed)?);
        Ok(Self {
            token_projection,
            ..self
        })
    }

    /// The values of projections.
    pub(super) fn projected(&self) -> Option<Vec<f64>> {
        let projection = self.token_projection.as_ref();
        projection.map(|projection| projection.values.clone())
    }

    /// How far the other statistics are from these.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if a statistic is of another number of tokens or slices.
    pub fn difference(&self, other: &Self) -> Result<StatisticsDifference> {
        let largest = |ours: &Option<Vec<f64>>, theirs: &Option<Vec<f64>>, what: &str| {
            let (Some(ours), Some(theirs)) = (ours, theirs) else {
                return Ok(None);
            };
            if ours.len() != theirs.len() {
                return Err(Error::Mismatch {
                    at: what.to_owned(),
                    expected: format!("{} values", ours.len()),
                    found: format!("{} values", theirs.len()),
                });
            }
            let pairs = ours.iter().zip(theirs);
            Ok(Some(
                pairs.map(|(a, b)| distance(*a, *b)).fold(0.0, f64::max),
            ))
        };
        Ok(StatisticsDifference {
            token_mean: largest(&self.token_mean, &other.token_mean, "token means")?,
            token_min: largest(&self.token_min, &other.token_min, "token minima")?,
            token_max: largest(&self.token_max, &other.token_max, "token maxima")?,
            token_sum: largest(&self.token_sum, &other.token_sum, "token sums")?,
            vocab_shard_mean: largest(
                &self.vocab_shard_mean,
                &other.vocab_shard_mean,
                "vocabulary slices",
            )?,
            token_projection: largest(&self.projected(), &other.projected(), "token projections")?,
        })
    }
}

impl StatisticsDifference {
    /// The figure that a statistical tolerance bounds: the means of vocabulary slices where there
    /// are any (final logits), else the means, minima and maxima of tokens; sums only where there
    /// is nothing else.
    pub fn judged(&self) -> Option<f64> {
        let of_tokens = [self.token_mean, self.token_min, self.token_max];
        let of_tokens = of_tokens.into_iter().flatten().reduce(f64::max);
        self.vocab_shard_mean.or(of_tokens).or(self.token_sum)
    }
}

/// The number of equal slices to cut rows of this length into.
pub(super) fn shard_count(row: usize, shards: Option<NonZeroUsize>) -> Result<usize> {
    let count = shards.map_or(1, NonZeroUsize::get);
    if row.is_multiple_of(count) {
        return Ok(count);
    }
    Err(Error::Mismatch {
        at: "last axis".into(),
        expected: format!("a multiple of {count} vocabulary slices"),
        found: row.to_string(),
    })
}

fn distance(a: f64, b: f64) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if a == b => 0.0,
        (false, false) => (a - b).abs(),
        (true, true) => 0.0,
        _ => f64::INFINITY,
    }
}
