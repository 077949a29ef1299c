//! What is measured of two arrays.

use super::Flips;
use super::kernel::{Segment, first_at, per_segment, place, segment, segments, worst_of};
use super::statistics::shard_count;
use super::{Close, Statistics, StatisticsDifference};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor, with_element};
use rayon::prelude::*;
use std::num::NonZeroUsize;

/// What to measure besides what is always measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spec<'a> {
    /// Count the elements outside this.
    pub close: Option<Close>,
    /// The largest difference that each element is allowed; see
    /// [`Budget`](crate::compare::Budget).
    pub budget: Option<&'a [f32]>,
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
    /// Root mean square of the reference's finite values, or of the candidate's where only statistics of
    /// the reference are known; `None` if there is none.
    pub reference_rms: Option<f64>,
    /// Largest distance in units in the last place; `None` if the two are stored differently.
    pub max_ulp: Option<u64>,
    /// What is not finite.
    pub non_finite: NonFinite,
    /// Elements outside [`Spec::close`].
    pub outside_close: usize,
    /// The element that comes closest to [`Spec::budget`], or exceeds it most; `None` if none was
    /// given or no element is finite on both sides.
    pub worst_ratio: Option<WorstRatio>,
    /// How many half-precision elements differ against how many may, where both sides round at the
    /// same places. Not measured by [`compare`], which knows no error bounds.
    pub flips: Option<Flips>,
    /// How far statistics are apart.
    pub statistics: StatisticsDifference,
    /// The largest difference of means of vocabulary slices, over what rounding may make of each
    /// ([`rounding_of_means`](super::rounding_of_means)). Not measured by [`compare`].
    pub statistics_ratio: Option<f64>,
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

/// The element whose difference is largest in units of its budget.
#[derive(Clone, Debug, PartialEq)]
pub struct WorstRatio {
    /// Its difference in units of what it is allowed: `diff / budget`.
    pub ratio: f64,
    /// The difference that it is allowed.
    pub allowed: f64,
    /// The element.
    pub worst: Extreme,
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

    /// The same without so many elements that are 0 on both sides and no part of what is compared.
    #[must_use]
    pub fn without(self, zeros: usize) -> Self {
        let elements = self.elements.saturating_sub(zeros);
        if zeros == 0 || elements == 0 {
            return Self { elements, ..self };
        }
        // What is a mean over all elements is one over fewer.
        let share = self.elements as f64 / elements as f64;
        Self {
            elements,
            mean_abs: self.mean_abs * share,
            reference_rms: self.reference_rms.map(|rms| rms * share.sqrt()),
            flips: self.flips.map(|flips| Flips { elements, ..flips }),
            statistics: StatisticsDifference {
                vocab_shard_mean: self.statistics.vocab_shard_mean.map(|mean| mean * share),
                ..self.statistics
            },
            ..self
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
/// [`Error::Mismatch`] if the shapes differ, the budget is of another size, or the last axis cannot
/// be cut into the slices asked for.
pub fn compare(reference: &Tensor, candidate: &Tensor, spec: &Spec<'_>) -> Result<Metrics> {
    same_shape(reference.shape(), candidate.shape())?;
    if let Some(budget) = spec.budget
        && budget.len() != reference.len()
    {
        return Err(Error::Mismatch {
            at: "budget".into(),
            expected: format!("{} elements", reference.len()),
            found: budget.len().to_string(),
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
    let found = Statistics::new(candidate, shards.and_then(NonZeroUsize::new))?;
    let found = match &reference.token_projection {
        Some(projection) => found.with_projection(candidate, projection.seed)?,
        None => found,
    };
    let statistics = found.difference(reference)?;
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
            of(&reference.projected(), &all.projected()),
        ]
        .concat()
    };
    let column = |all: &Statistics| {
        let column = columns(all);
        Tensor::from_vec(&[column.len()], column)
    };
    let metrics = compare(&column(reference)?, &column(&found)?, &Spec::default())?;
    let reference_rms = rms(candidate)?;
    let projected = projected_frobenius(reference, &found, candidate, reference_rms);
    Ok(Metrics {
        // A mean of fp64 has no ulp of the model's type, and is none of the values.
        max_ulp: None,
        reference_rms,
        // Sums of rows are so large that they would hide it.
        relative_frobenius: metrics.relative_frobenius.max(projected),
        statistics,
        ..metrics
    })
}

/// The relative Frobenius distance of the values, as projections show it; 0 without any. It is taken of the
/// candidate's norm, which is no accident of the direction.
fn projected_frobenius(
    reference: &Statistics,
    found: &Statistics,
    candidate: &Tensor,
    rms: Option<f64>,
) -> f64 {
    let both = reference.projected().zip(found.projected());
    let squares = both.map_or(0.0, |(a, b)| {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
    });
    let norm = rms.unwrap_or(0.0) * (candidate.len() as f64).sqrt();
    // What is not finite is a disagreement of its own.
    if squares > 0.0 && squares.is_finite() {
        squares.sqrt() / norm
    } else {
        0.0
    }
}

/// Root mean square of what is finite.
fn rms(x: &Tensor) -> Result<Option<f64>> {
    with_element!(x.dtype(), T => {
        let values = x.as_slice::<T>()?.iter().map(|value| value.to_f64());
        let finite = values.filter(|value| value.is_finite());
        let (count, squares) = finite.fold((0_usize, 0.0), |(n, sum), x| (n + 1, sum + x * x));
        Ok((count > 0).then(|| (squares / count as f64).sqrt()))
    })
}

/// How many elements of two arrays of one type differ in value.
///
/// # Errors
/// [`Error::Mismatch`] if their types or sizes differ.
pub fn unequal(a: &Tensor, b: &Tensor) -> Result<usize> {
    if a.len() != b.len() {
        return Err(Error::Mismatch {
            at: "arrays".into(),
            expected: format!("{} elements", a.len()),
            found: b.len().to_string(),
        });
    }
    with_element!(a.dtype(), T => {
        let pairs = a.as_slice::<T>()?.par_iter().zip(b.as_slice::<T>()?);
        Ok(pairs.filter(|(a, b)| a != b).count())
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

/// Refuses arrays of two shapes.
pub(super) fn same_shape(reference: &[usize], candidate: &[usize]) -> Result<()> {
    if reference == candidate {
        return Ok(());
    }
    Err(Error::Mismatch {
        at: "arrays".into(),
        expected: format!("shape {reference:?}"),
        found: format!("shape {candidate:?}"),
    })
}

fn compare_slices<T: Element>(shape: &Tensor, candidate: &[T], spec: &Spec<'_>) -> Result<Metrics> {
    let reference = shape.as_slice::<T>()?;
    let row = shape.row_len();
    let shards = shard_count(row, spec.vocab_shards)?;
    let pieces = segments(row, shards);
    let parts = per_segment(reference, candidate, row, &pieces, |r, c| {
        segment(r, c, spec.close)
    });

    let worst = Worst::of(&parts);
    let extreme_at = |index: usize| {
        let (reference, candidate) = (reference[index].to_f64(), candidate[index].to_f64());
        Extreme {
            difference: (reference - candidate).abs(),
            position: shape.position(index),
            reference,
            candidate,
        }
    };
    let extreme = worst.map(|worst| {
        let range = place(worst.part, row, &pieces);
        let (reference, candidate) = (&reference[range.clone()], &candidate[range.clone()]);
        let offset = first_at(reference, candidate, worst.difference);
        extreme_at(range.start + offset.unwrap_or(0))
    });
    let worst_ratio = spec.budget.and_then(|budget| {
        let (ratio, index) = worst_of(reference, candidate, budget)?;
        Some(WorstRatio {
            ratio,
            allowed: budget[index].into(),
            worst: extreme_at(index),
        })
    });
    let cut = Cut {
        row,
        pieces: pieces.len(),
        shards: spec.vocab_shards,
    };
    Metrics::merge(reference.len(), &cut, &parts, extreme, worst_ratio)
}

/// How an array was cut into segments.
pub(super) struct Cut {
    /// Elements of a row.
    pub(super) row: usize,
    /// Segments of a row.
    pub(super) pieces: usize,
    /// Slices of the last axis whose means are compared.
    pub(super) shards: Option<NonZeroUsize>,
}

/// The segment that holds the largest difference, the first of several.
pub(super) struct Worst {
    pub(super) part: usize,
    pub(super) difference: f64,
}

impl Worst {
    /// `None` if no element is finite on both sides.
    pub(super) fn of(parts: &[Segment]) -> Option<Self> {
        let difference = parts.iter().map(|part| part.max_abs).fold(0.0, f64::max);
        let comparable = |part: &Segment| part.comparable() > 0;
        let part = parts
            .iter()
            .position(|part| part.max_abs == difference && comparable(part))?;
        Some(Self { part, difference })
    }
}

impl Metrics {
    /// What the segments of an array of `elements` say together, in their order.
    pub(super) fn merge(
        elements: usize,
        cut: &Cut,
        parts: &[Segment],
        max_abs: Option<Extreme>,
        worst_ratio: Option<WorstRatio>,
    ) -> Result<Self> {
        let count = |of: fn(&Segment) -> usize| parts.iter().map(of).sum::<usize>();
        let total = |of: fn(&Segment) -> f64| parts.iter().map(of).sum::<f64>();
        let comparable = count(Segment::comparable);
        let norm = total(|s| s.reference_squares).sqrt();
        let distance = total(|s| s.squares).sqrt();
        let sides = |of: fn(&Segment) -> super::kernel::Side| {
            let sides: Vec<_> = parts.iter().map(of).collect();
            Statistics::merge(&sides, cut.row, cut.pieces, cut.shards)
        };
        Ok(Self {
            elements,
            unequal: count(|s| s.unequal),
            max_abs,
            mean_abs: match comparable {
                0 => 0.0,
                n => total(|s| s.sum_abs) / n as f64,
            },
            relative_frobenius: if distance == 0.0 {
                0.0
            } else {
                distance / norm
            },
            reference_rms: Some(match comparable {
                0 => 0.0,
                n => norm / (n as f64).sqrt(),
            }),
            max_ulp: Some(parts.iter().map(|part| part.max_ulp).max().unwrap_or(0)),
            non_finite: NonFinite {
                reference_nans: count(|s| s.reference.nans),
                candidate_nans: count(|s| s.candidate.nans),
                reference_infinities: count(|s| s.reference.infinities),
                candidate_infinities: count(|s| s.candidate.infinities),
                disagreements: count(|s| s.disagreements),
            },
            outside_close: count(|s| s.outside_close),
            worst_ratio,
            flips: None,
            statistics_ratio: None,
            statistics: sides(|s| s.reference).difference(&sides(|s| s.candidate))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// Bits from a seed: most of them numbers near 1, some anything at all.
    fn values(count: usize, seed: u32, wild: bool) -> Vec<f32> {
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        };
        (0..count)
            .map(|_| match (wild, draw() >> 28) {
                (true, 0) => f32::NAN,
                (true, 1) => f32::INFINITY,
                (true, 2) => f32::NEG_INFINITY,
                (true, 3) => f32::from_bits(draw()),
                _ => draw() as f32 / u32::MAX as f32 - 0.5,
            })
            .collect()
    }

    fn tensor(shape: &[usize], values: &[f32], kind: u8) -> Tensor {
        match kind {
            0 => Tensor::from_vec(shape, values.to_vec()),
            1 => Tensor::from_vec(shape, values.iter().map(|v| f64::from(*v)).collect()),
            2 => Tensor::from_vec(shape, values.iter().map(|v| f16::from_f32(*v)).collect()),
            _ => Tensor::from_vec(shape, values.iter().map(|v| bf16::from_f32(*v)).collect()),
        }
        .unwrap()
    }

    fn on_threads<T: Send>(threads: usize, of: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(of)
    }

    /// What is measured, said as plainly as possible.
    fn naive(reference: &[f64], candidate: &[f64]) -> (usize, f64, f64, f64, usize) {
        let (mut unequal, mut disagreements, mut max) = (0, 0, 0.0_f64);
        let (mut squares, mut reference_squares, mut sum, mut count) = (0.0, 0.0, 0.0, 0.0);
        for (r, c) in reference.iter().zip(candidate) {
            if r.is_finite() && c.is_finite() {
                unequal += usize::from(r != c);
                max = max.max((r - c).abs());
                sum += (r - c).abs();
                squares += (r - c) * (r - c);
                reference_squares += r * r;
                count += 1.0;
            } else if !(r == c || r.is_nan() && c.is_nan()) {
                unequal += 1;
                disagreements += 1;
            }
        }
        let rel = if squares == 0.0 {
            0.0
        } else {
            (squares / reference_squares).sqrt()
        };
        let mean = if count == 0.0 { 0.0 } else { sum / count };
        (unequal, max, mean, rel, disagreements)
    }

    proptest! {
        #[test]
        fn metrics_are_what_a_plain_loop_measures_on_any_number_of_threads(
            rows in 0_usize..5, columns in 0_usize..70, seeds in any::<[u32; 2]>(),
            wild in any::<bool>(), kind in 0_u8..4,
        ) {
            let shape = [rows, columns];
            let count = rows * columns;
            let [a, b] = seeds.map(|seed| tensor(&shape, &values(count, seed, wild), kind));
            let metrics = compare(&a, &b, &Spec::default()).unwrap();
            for threads in [1, 2, 3] {
                let again = on_threads(threads, || compare(&a, &b, &Spec::default())).unwrap();
                // NaN statistics are not equal to themselves: compare as text.
                prop_assert_eq!(format!("{again:?}"), format!("{metrics:?}"));
            }
            let [wide_a, wide_b] = [&a, &b].map(|t| t.widened().unwrap());
            let (unequal, max, mean, rel, disagreements) =
                naive(wide_a.as_slice().unwrap(), wide_b.as_slice().unwrap());
            prop_assert_eq!(metrics.unequal, unequal);
            prop_assert_eq!(metrics.non_finite.disagreements, disagreements);
            prop_assert_eq!(metrics.max_abs_difference(), max);
            approx::assert_relative_eq!(metrics.mean_abs, mean, max_relative = 1e-12);
            approx::assert_relative_eq!(metrics.relative_frobenius, rel, max_relative = 1e-12);
            if let Some(worst) = &metrics.max_abs {
                prop_assert_eq!((worst.reference - worst.candidate).abs(), worst.difference);
            }
            let back = compare(&b, &a, &Spec::default()).unwrap();
            prop_assert_eq!(back.unequal, metrics.unequal);
            prop_assert_eq!(back.max_ulp, metrics.max_ulp);
            prop_assert_eq!(back.max_abs_difference(), metrics.max_abs_difference());
        }

        #[test]
        fn an_array_passes_every_kind_against_itself(
            columns in 1_usize..60, seed in any::<u32>(), wild in any::<bool>(), kind in 0_u8..4,
        ) {
            use crate::compare::{Bound, Tolerance};
            let x = tensor(&[3, columns], &values(3 * columns, seed, wild), kind);
            let close = Close { atol: 0.0, rtol: 0.0 };
            let tolerance = Tolerance {
                bounds: vec![
                    Bound::Exact, Bound::Abs(0.0), Bound::Rel(0.0), Bound::Close(close),
                    Bound::Ulp(0), Bound::Stat(0.0), Bound::StatRms(0.0),
                ],
            };
            let spec = Spec {
                close: tolerance.close(),
                vocab_shards: NonZeroUsize::new(1),
                budget: None,
            };
            let metrics = compare(&x, &x, &spec).unwrap();
            for check in tolerance.judge(&metrics) {
                prop_assert!(check.holds, "{:?}", check);
            }
        }

        /// Rows longer than a segment, cut at shards, against the same numbers in one row each.
        #[test]
        fn statistics_do_not_depend_on_where_rows_are_cut(seed in any::<u32>(), shards in 1_usize..4) {
            let columns = 3 * 2 * 9000;
            let x = tensor(&[2, columns], &values(2 * columns, seed, false), 0);
            let shards_of = NonZeroUsize::new(shards);
            let cut = Statistics::new(&x, shards_of).unwrap();
            let whole = Statistics::new(&x, None).unwrap();
            prop_assert_eq!(&cut.token_min, &whole.token_min);
            prop_assert_eq!(&cut.token_max, &whole.token_max);
            let of_shards = cut.vocab_shard_mean.unwrap();
            prop_assert_eq!(of_shards.len(), shards);
            let mean = of_shards.iter().sum::<f64>() / shards as f64;
            let expected = whole.token_mean.unwrap().iter().sum::<f64>() / 2.0;
            approx::assert_abs_diff_eq!(mean, expected, epsilon = 1e-12);
        }
    }

    #[test]
    fn disagreement_about_nan_or_infinity_passes_no_tolerance() {
        use crate::compare::{Bound, Tolerance};
        let row = |values: [f32; 2]| Tensor::from_vec(&[2], values.to_vec()).unwrap();
        let tolerance = Tolerance {
            bounds: vec![Bound::Abs(f64::MAX)],
        };
        for (a, b) in [
            (f32::NAN, 0.0),
            (f32::INFINITY, f32::NEG_INFINITY),
            (f32::INFINITY, 1.0),
        ] {
            let metrics = compare(&row([1.0, a]), &row([1.0, b]), &Spec::default()).unwrap();
            assert_eq!((metrics.unequal, metrics.non_finite.disagreements), (1, 1));
            assert!(!tolerance.judge(&metrics)[0].holds);
        }
        let agreeing = row([f32::NAN, f32::INFINITY]);
        let metrics = compare(&agreeing, &agreeing, &Spec::default()).unwrap();
        assert!(tolerance.judge(&metrics)[0].holds);
        assert_eq!(metrics.non_finite.reference_nans, 1);
    }

    #[test]
    fn the_element_with_the_worst_ratio_is_named() {
        let reference = Tensor::from_vec(&[2, 2], vec![1.0_f32, 2.0, 3.0, f32::NAN]).unwrap();
        let candidate = Tensor::from_vec(&[2, 2], vec![1.5_f32, 2.0, 3.25, f32::NAN]).unwrap();
        let worst_ratio = |budget: &[f32]| {
            let spec = Spec {
                budget: Some(budget),
                ..Spec::default()
            };
            compare(&reference, &candidate, &spec).map(|metrics| metrics.worst_ratio)
        };
        let found = worst_ratio(&[1.0, 0.0, 0.125, 1.0]).unwrap().unwrap();
        assert_eq!((found.ratio, found.worst.position), (2.0, vec![1, 0]));
        // Where no budget could be computed nothing is allowed.
        let found = worst_ratio(&[f32::NAN, 0.0, 1.0, 1.0]).unwrap().unwrap();
        assert_eq!(
            (found.ratio, found.worst.position),
            (f64::INFINITY, vec![0, 0])
        );
        assert!(worst_ratio(&[1.0]).is_err());
    }

    #[test]
    fn the_ratio_is_0_where_nothing_can_differ() {
        use crate::compare::{Bound, Tolerance};
        let rounding = Tolerance {
            bounds: vec![Bound::Rounding],
        };
        for values in [vec![], vec![f32::INFINITY; 3]] {
            let x = Tensor::from_vec(&[values.len()], values).unwrap();
            let budget = vec![0.0; x.len()];
            let spec = Spec {
                budget: Some(&budget),
                ..Spec::default()
            };
            let metrics = compare(&x, &x, &spec).unwrap();
            assert!(rounding.judge(&metrics)[0].holds, "{metrics:?}");
        }
    }

    #[test]
    fn shapes_must_agree_and_types_need_not() {
        let narrow = Tensor::from_vec(&[2], vec![bf16::ONE; 2]).unwrap();
        let wide = Tensor::from_vec(&[2], vec![1.0_f32, 2.0]).unwrap();
        let metrics = compare(&narrow, &wide, &Spec::default()).unwrap();
        assert_eq!((metrics.unequal, metrics.max_ulp), (1, None));
        assert_eq!(metrics.max_abs.unwrap().position, [1]);
        let other = Tensor::from_vec(&[1, 2], vec![1.0_f32, 2.0]).unwrap();
        assert!(compare(&wide, &other, &Spec::default()).is_err());
    }
}
