//! What is measured of two arrays.

use super::kernel::{Segment, first_at, segment, segments};
use super::statistics::shard_count;
use super::{Close, Statistics, StatisticsDifference};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor, with_element};
use rayon::prelude::*;
use std::num::NonZeroUsize;
use std::ops::Range;

/// What to measure besides what is always measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spec {
    /// Count the elements outside this.
    pub close: Option<Close>,
    /// Slices of the last axis whose means are compared.
    pub vocab_shards: Option<NonZeroUsize>,
}

/// How far a candidate is from a reference.
///
/// Elements that are not finite: NaN at the same place agrees, and so does the same infinity;
/// anything else is a disagreement, which no tolerance forgives. Neither enters a sum or a maximum.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Elements compared.
    pub elements: usize,
    /// Elements whose values differ; −0 equals +0.
    pub unequal: usize,
    /// The largest absolute difference, where it first occurs; `None` if no element is finite on
    /// both sides.
    pub max_abs: Option<Extreme>,
    /// Mean absolute difference of the elements that are finite on both sides.
    pub mean_abs: f64,
    /// `‖reference − candidate‖ / ‖reference‖`, Frobenius norms; 0 if both are 0, infinite if only
    /// the reference is.
    pub relative_frobenius: f64,
    /// Largest distance in units in the last place; `None` if the two are stored differently.
    pub max_ulp: Option<u64>,
    /// What is not finite.
    pub non_finite: NonFinite,
    /// Elements outside [`Spec::close`].
    pub outside_close: usize,
    /// How far statistics are apart.
    pub statistics: StatisticsDifference,
}

/// An element and its difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Extreme {
    /// `|reference − candidate|`.
    pub difference: f64,
    /// Indices of the element, one an axis.
    pub position: Vec<usize>,
    /// The reference's value.
    pub reference: f64,
    /// The candidate's value.
    pub candidate: f64,
}

/// Counts of elements that are not finite.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NonFinite {
    /// NaNs in the reference.
    pub reference_nans: usize,
    /// NaNs in the candidate.
    pub candidate_nans: usize,
    /// Infinities in the reference.
    pub reference_infinities: usize,
    /// Infinities in the candidate.
    pub candidate_infinities: usize,
    /// Elements where the sides disagree about this.
    pub disagreements: usize,
}

impl Metrics {
    /// Share of the elements whose values differ; 0 for empty arrays.
    pub fn unequal_fraction(&self) -> f64 {
        match self.elements {
            0 => 0.0,
            n => self.unequal as f64 / n as f64,
        }
    }

    /// The largest absolute difference; 0 if no element is finite on both sides.
    pub fn max_abs_difference(&self) -> f64 {
        self.max_abs.as_ref().map_or(0.0, |worst| worst.difference)
    }
}

/// Compares two arrays of one shape in one pass. Their types may differ; ulps are not measured
/// then.
///
/// # Errors
/// [`Error::Mismatch`] if the shapes differ or the last axis cannot be cut into the slices asked
/// for.
pub fn compare(reference: &Tensor, candidate: &Tensor, spec: &Spec) -> Result<Metrics> {
    if reference.shape() != candidate.shape() {
        return Err(Error::Mismatch {
            at: "arrays".into(),
            expected: format!("shape {:?}", reference.shape()),
            found: format!("shape {:?}", candidate.shape()),
        });
    }
    if reference.dtype() == candidate.dtype() {
        return with_element!(reference.dtype(), T => {
            compare_slices::<T>(reference, candidate.as_slice()?, spec)
        });
    }
    let [wide, other] = [reference.widened()?, candidate.widened()?];
    let mut metrics = compare_slices::<f64>(&wide, other.as_slice()?, spec)?;
    metrics.max_ulp = None;
    Ok(metrics)
}

/// Compares an array with statistics of a reference. Differences, norms and counts are those of the
/// reference's statistics, one after the other, in place of its elements.
///
/// # Errors
/// [`Error::Mismatch`] if the statistics are of another number of tokens.
pub fn compare_statistics(reference: &Statistics, candidate: &Tensor) -> Result<Metrics> {
    let shards = reference.vocab_shard_mean.as_ref().map(Vec::len);
    let found = Statistics::of(candidate, shards.and_then(NonZeroUsize::new))?;
    let statistics = reference.difference(&found)?;
    let columns = |all: &Statistics| -> Vec<f64> {
        let of = |recorded: &Option<Vec<f64>>, column: &Option<Vec<f64>>| match recorded {
            Some(_) => column.clone().unwrap_or_default(),
            None => Vec::new(),
        };
        [
            of(&reference.token_mean, &all.token_mean),
            of(&reference.token_min, &all.token_min),
            of(&reference.token_max, &all.token_max),
            of(&reference.token_sum, &all.token_sum),
            of(&reference.vocab_shard_mean, &all.vocab_shard_mean),
        ]
        .concat()
    };
    let column = |all: &Statistics| {
        let column = columns(all);
        Tensor::from_vec(&[column.len()], column)
    };
    let metrics = compare(&column(reference)?, &column(&found)?, &Spec::default())?;
    Ok(Metrics {
        // A mean of fp64 has no ulp of the model's type.
        max_ulp: None,
        statistics,
        ..metrics
    })
}

/// The largest absolute difference of two arrays; infinite where they disagree about an element
/// that is not finite.
///
/// # Errors
/// [`Error::Mismatch`] if the shapes differ.
pub fn largest_difference(reference: &Tensor, candidate: &Tensor) -> Result<f64> {
    let metrics = compare(reference, candidate, &Spec::default())?;
    Ok(match metrics.non_finite.disagreements {
        0 => metrics.max_abs_difference(),
        _ => f64::INFINITY,
    })
}

fn compare_slices<T: Element>(shape: &Tensor, candidate: &[T], spec: &Spec) -> Result<Metrics> {
    let reference = shape.as_slice::<T>()?;
    let row = shape.row_len();
    let shards = shard_count(row, spec.vocab_shards)?;
    let pieces = segments(row, shards);
    let parts = per_segment(reference, candidate, row, &pieces, |r, c| segment(r, c, spec.close));

    let count = |of: fn(&Segment) -> usize| parts.iter().map(of).sum::<usize>();
    let total = |of: fn(&Segment) -> f64| parts.iter().map(of).sum::<f64>();
    let (disagreements, agreements) = (count(|s| s.disagreements), count(|s| s.agreements));
    let comparable = reference.len() - disagreements - agreements;
    let worst = parts.iter().map(|part| part.max_abs).fold(0.0, f64::max);
    let extreme = (comparable > 0).then(|| {
        let part = parts.iter().position(|part| part.max_abs == worst).unwrap_or(0);
        let range = place(part, row, &pieces);
        let offset = first_at(&reference[range.clone()], &candidate[range.clone()], worst);
        let index = range.start + offset.unwrap_or(0);
        Extreme {
            difference: worst,
            position: shape.position(index),
            reference: reference[index].to_f64(),
            candidate: candidate[index].to_f64(),
        }
    });
    let norm = total(|s| s.reference_squares).sqrt();
    let distance = total(|s| s.squares).sqrt();
    let sides = |of: fn(&Segment) -> super::kernel::Side| {
        let sides: Vec<_> = parts.iter().map(of).collect();
        Statistics::gather(&sides, row, pieces.len(), spec.vocab_shards)
    };
    Ok(Metrics {
        elements: reference.len(),
        unequal: count(|s| s.unequal),
        max_abs: extreme,
        mean_abs: match comparable {
            0 => 0.0,
            n => total(|s| s.sum_abs) / n as f64,
        },
        relative_frobenius: if distance == 0.0 { 0.0 } else { distance / norm },
        max_ulp: Some(parts.iter().map(|part| part.max_ulp).max().unwrap_or(0)),
        non_finite: NonFinite {
            reference_nans: count(|s| s.reference.nans),
            candidate_nans: count(|s| s.candidate.nans),
            reference_infinities: count(|s| s.reference.infinities),
            candidate_infinities: count(|s| s.candidate.infinities),
            disagreements,
        },
        outside_close: count(|s| s.outside_close),
        statistics: sides(|s| s.reference).difference(&sides(|s| s.candidate))?,
    })
}

/// Applies `of` to every segment of two arrays with rows of `row` elements cut into `pieces`; the
/// results are in the segments' order.
pub(super) fn per_segment<T: Element, R: Send>(
    reference: &[T],
    candidate: &[T],
    row: usize,
    pieces: &[Range<usize>],
    of: impl Fn(&[T], &[T]) -> R + Sync,
) -> Vec<R> {
    let rows = reference.len().checked_div(row).unwrap_or(0);
    (0..rows * pieces.len())
        .into_par_iter()
        .map(|part| {
            let range = place(part, row, pieces);
            of(&reference[range.clone()], &candidate[range])
        })
        .collect()
}

/// Where a segment lies in the array.
fn place(part: usize, row: usize, pieces: &[Range<usize>]) -> Range<usize> {
    let start = part / pieces.len() * row;
    let piece = &pieces[part % pieces.len()];
    start + piece.start..start + piece.end
}
