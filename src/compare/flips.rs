//! Mismatch counts: how many half-precision elements two correct implementations disagree on.

use super::Statistics;
use crate::error::{Error, Result};
use crate::op::{ErrorBound, FP32_ROUNDOFF, MEAN_OF_NORMAL, ROUNDING_RMS};
use crate::tensor::{DType, Element, Float, Tensor, with_float};
use rayon::prelude::*;
use std::num::NonZeroUsize;

/// What every element is given at least, in unit roundoffs of fp32: operations that are the same
/// everywhere may be contracted somewhere.
const LEAST: f64 = 3.0;
/// Elements a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// The elements of a half-precision value on which two sides that round at the same places
/// disagree, against how many that would be by chance.
///
/// Before the rounding the sides differ by `d`, normally distributed with the standard deviations `s₁`
/// and `s₂` of both; a rounding boundary lies between them with the probability `E|d| / ulp`,
/// `E|d| = √(2/π)·√(s₁² + s₂²)`. A rounding keeps the mean of `|d|`, so that this holds after
/// several roundings, too. Error bounds take every rounding at its largest; here it counts as its root mean
/// square. They hold for any order of summation, the worst included: more is expected than is seen of an
/// order that errs less.
/// The probability allows for errors that the elements of a row share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flips {
    /// Elements that differ.
    pub observed: usize,
    /// Elements there are.
    pub elements: usize,
    /// Elements expected to differ.
    pub expected: f64,
    /// Common logarithm of the probability that as many or more differ by chance (Poisson, of a mean
    /// that allows for rows of one error).
    pub log10_p: f64,
}

impl Flips {
    /// Holds a count against the error bounds of both sides; `None` if the value is not stored in a
    /// half type.
    ///
    /// # Errors
    /// None for floating values.
    pub fn new(
        observed: usize,
        value: &Tensor,
        ours: &ErrorBound,
        theirs: &ErrorBound,
    ) -> Result<Option<Self>> {
        let expected = with_float!(value.dtype(), T => {
            if !value.dtype().is_half() {
                return Ok(None);
            }
            let chunks = value.as_slice::<T>()?.par_chunks(CHUNK);
            let stds = ours.std.par_chunks(CHUNK).zip(theirs.std.par_chunks(CHUNK));
            let sums: Vec<f64> = chunks
                .zip(stds)
                .map(|(values, (ours, theirs))| {
                    let each = values.iter().zip(ours.iter().zip(theirs));
                    each.map(|(value, (a, b))| chance::<T>(*value, (*a).into(), (*b).into())).sum()
                })
                .collect();
            sums.iter().sum::<f64>()
        }, else return Ok(None));
        Ok(Some(Self {
            observed,
            elements: value.len(),
            expected,
            log10_p: poisson_tail(observed, expected * dispersion(value)),
        }))
    }

    /// Share of the elements that differ.
    pub fn fraction(&self) -> f64 {
        self.observed as f64 / self.elements.max(1) as f64
    }

    /// Share of the elements expected to differ.
    pub fn expected_fraction(&self) -> f64 {
        self.expected / self.elements.max(1) as f64
    }
}

/// How far what two means over all tokens of slices of the last axis differ by, over what rounding may make
/// of them; the largest of all slices. `None` if the values are of no half type.
///
/// An element's two values differ by a unit in the last place with a [small probability](Flips), with a sign
/// that is drawn for each, or, on a unit that cuts, is the same for all: its mean distance `m = E|d|`
/// counts in full, and six times the root of the sum of the variances `m·ulp` besides.
///
/// # Errors
/// If the last axis cannot be cut so.
pub fn rounding_of_means(
    reference: &Tensor,
    candidate: &Tensor,
    [ours, theirs]: [&ErrorBound; 2],
    slices: NonZeroUsize,
) -> Result<Option<f64>> {
    const STDS: f64 = 6.0;
    let mean = |tensor| Ok::<_, Error>(Statistics::new(tensor, Some(slices))?.vocab_shard_mean);
    let (Some(expected), Some(found)) = (mean(reference)?, mean(candidate)?) else {
        return Ok(None);
    };
    let row = reference.row_len();
    let width = row / slices;
    with_float!(reference.dtype(), T => {
        if !T::DTYPE.is_half() {
            return Ok(None);
        }
        let values = reference.as_slice::<T>()?;
        let mut allowed = vec![[0.0; 2]; slices.get()];
        for (index, value) in values.iter().enumerate() {
            let magnitude = f64::from(value.to_f32().abs());
            let ulp = ulp(T::DTYPE, magnitude);
            let chance = chance::<T>(*value, ours.std[index].into(), theirs.std[index].into());
            let of_slice = &mut allowed[(index % row) / width];
            of_slice[0] += chance * ulp;
            of_slice[1] += chance * ulp * ulp;
        }
        let elements = (values.len() / slices) as f64;
        let ratios = allowed.iter().zip(expected.iter().zip(&found)).map(|([sum, variance], (a, b))| {
            let difference = (a - b).abs() * elements;
            if difference == 0.0 { 0.0 } else { difference / (sum + STDS * variance.sqrt()) }
        });
        // A NaN is no ratio that a bound could hold.
        Ok(ratios.reduce(|a, b| if a.is_nan() || a > b { a } else { b }))
    }, else Ok(None))
}

fn chance<T: Float>(value: T, ours: f64, theirs: f64) -> f64 {
    let magnitude = f64::from(value.to_f32().abs());
    let least = LEAST * FP32_ROUNDOFF * magnitude;
    let std = ROUNDING_RMS * (ours * ours + theirs * theirs + least * least).sqrt();
    let chance = MEAN_OF_NORMAL * std / ulp(T::DTYPE, magnitude);
    // What is not finite is judged elsewhere.
    if chance.is_finite() {
        chance.min(1.0)
    } else {
        0.0
    }
}

/// Spacing of the numbers of a half type around a magnitude.
fn ulp(dtype: DType, magnitude: f64) -> f64 {
    dtype.float().map_or(f64::NAN, |float| float.ulp(magnitude))
}

/// By how much more than expected may differ because errors of a row have one source (a norm's scale,
/// a softmax's sum): a row's mismatches go with the magnitude of one normally distributed error, whose
/// 1e-6 quantile is 6 times its mean; over independent rows that evens out.
fn dispersion(value: &Tensor) -> f64 {
    let rows = value.len().checked_div(value.row_len()).unwrap_or(1);
    1.0 + 5.0 / (rows.max(1) as f64).sqrt()
}

/// Common logarithm of `P(X ≥ count)` for a Poisson variable with this mean.
fn poisson_tail(count: usize, mean: f64) -> f64 {
    let n = count as f64;
    if count == 0 {
        return 0.0;
    }
    if mean <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if n <= mean {
        // At or below the mean nothing is improbable: at least about a half.
        return 0.0;
    }
    // P(count) times 1 + mean/(count+1) + …, which falls at least geometrically.
    let (mut term, mut sum, mut next) = (1.0, 1.0, n + 1.0);
    while term > 1e-16 * sum {
        term *= mean / next;
        sum += term;
        next += 1.0;
    }
    let log = n * mean.ln() - mean - libm::lgamma(n + 1.0) + f64::ln(sum);
    (log / std::f64::consts::LN_10).min(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn tails_are_those_of_the_tables() {
        // P(X ≥ 1 | 0.5) = 1 − e^−0.5; P(X ≥ 10 | 3) = 0.00110249; P(X ≥ 1 | 1e-9) = 1e-9.
        for (count, mean, p) in [
            (1, 0.5, 0.393_469),
            (10, 3.0, 0.001_102_49),
            (1, 1e-9, 1e-9),
        ] {
            let expected = f64::log10(p);
            approx::assert_abs_diff_eq!(poisson_tail(count, mean), expected, epsilon = 1e-5);
        }
        assert_eq!(poisson_tail(0, 0.0), 0.0);
        assert_eq!(poisson_tail(3, 7.0), 0.0);
        assert_eq!(poisson_tail(1, 0.0), f64::NEG_INFINITY);
        assert!(poisson_tail(1_000_000, 10.0) < -4e6);
    }

    #[test]
    fn spacings_are_the_distance_to_the_next_number() {
        for value in [1.0_f32, 1.5, 2.0, 3e-3, 60000.0, 1e-6] {
            let half = f16::from_f32(value);
            let next = f16::from_bits(half.to_bits() + 1);
            let expected = f64::from(next) - f64::from(half);
            assert_eq!(ulp(DType::F16, half.into()), expected, "{value}");
            let brain = bf16::from_f32(value);
            let next = bf16::from_bits(brain.to_bits() + 1);
            let expected = f64::from(next) - f64::from(brain);
            assert_eq!(ulp(DType::Bf16, brain.into()), expected, "{value}");
        }
    }
}
