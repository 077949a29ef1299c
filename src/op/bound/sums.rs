//! Sums of products.
//!
//! The error of an fp32 sum of `K` terms `t` is `Σ δ·s` over its partial sums `s`, `|δ| ≤ u`.
//! Deterministic: every `|s|` is at most `A = Σ|t|`, so the error is at most `K·u/(1 − K·u)·A`
//! (Higham 2002, "Accuracy and Stability of Numerical Algorithms", (3.5)). Probabilistic: roundings
//! are independent, so its variance is at most `u²·Σ s²`; for terms in random order with the sum
//! `y` and `Q = Σ t²`, a partial sum of `k` terms has the mean `y·k/K` and the variance
//! `Q·k/K·(1 − k/K)`, so that `Σ s² ≈ K·(y²/3 + Q/6)`; rounded products add `Q`. Those of half types are
//! exact, nothing is rounded at the first term, and a sum is rounded only where the term is so small beside
//! it that its last bits are lost: [`LOST`]. For terms of one
//! sign this is Higham & Mary's `√K·u·A` within a constant, and for terms of both the sharper bound
//! of Higham & Mary 2020, "Sharper probabilistic backward error analysis for basic linear algebra
//! kernels with random data".
//!
//! `A` and `Q` are not computed by a second product but bounded by Cauchy and Schwarz over blocks
//! of [`BLOCK`] terms: a product of [`BLOCK`] times less work. For normally distributed terms the
//! bound is 1.5 times `A` and 2.6 times `Q`, for terms with outliers up to [`BLOCK`] times: of every row,
//! `Q` is computed at [`SAMPLES`] places, and the bounds of the row are lowered to the largest share of
//! them that was found.

use super::operand::Matrix;
use super::{Confidence, STDS, U};
use crate::op::tensor_core::MmaUnit;
use multiversion::multiversion;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, Axis};
use rayon::prelude::*;

/// Terms bounded together.
const BLOCK: usize = 16;
/// Sums of a row whose `Q` is computed.
const SAMPLES: usize = 8;
/// Binary digits of fp32.
const FP32_BITS: i32 = 24;
/// Terms that are products of normally distributed numbers are smaller than a share `z` of their root mean square
/// with a probability of `2/π·z·(1.1 − ln z)` at most: what is taken is five times that, for terms of which
/// some are much larger than most.
const LOST: f64 = 3.0;
/// Rows of the right-hand side that one thread takes at a time.
const PANEL: usize = 64;

/// Error bounds of the sums of `x · weightᵀ`, from both operands and from the summation.
pub(in crate::op) struct Sums {
    magnitudes: Magnitudes,
    rounding: Option<Array2<f32>>,
    std: Option<Array2<f32>>,
    confidence: Confidence,
}

impl Sums {
    /// As a CPU computes them, or a tensor core.
    pub(in crate::op) fn new(
        x: Matrix<'_>,
        weight: Matrix<'_>,
        confidence: Confidence,
        unit: Option<MmaUnit>,
    ) -> Self {
        let values = [x.values, weight.values];
        let squares = confidence == Confidence::Probabilistic;
        Self {
            magnitudes: Magnitudes {
                unit,
                product_bits: x.significand + weight.significand,
                ..Magnitudes::new(x.values, weight.values, confidence)
            },
            rounding: propagated(values, [x.rounding(), weight.rounding()], false),
            std: propagated(values, [x.std(), weight.std()], squares),
            confidence,
        }
    }

    /// Rounding and standard deviation of the sum `y` of `terms` terms at a place of the product.
    #[inline(always)]
    pub(in crate::op) fn at(&self, place: [usize; 2], y: f64, terms: usize) -> [f64; 2] {
        let magnitude = f64::from(self.magnitudes.of[place]);
        let own = self.magnitudes.std(y, magnitude, terms);
        let of = |all: &Option<Array2<f32>>| all.as_ref().map_or(0.0, |all| all[place].into());
        let std = self.confidence.join(own, of(&self.std));
        [of(&self.rounding), std]
    }

    /// By how much rounding to a type with this unit roundoff changes a sum `y` that is made of
    /// `parts` rounded sums, at a place of the product.
    #[inline(always)]
    pub(in crate::op) fn partial_roundings(
        &self,
        place: [usize; 2],
        y: f64,
        parts: usize,
        unit: f64,
    ) -> f64 {
        let magnitude = self.magnitudes.of[place].into();
        self.magnitudes.partial_roundings(y, magnitude, parts, unit)
    }
}

/// What is known of every sum of a product: `Q`, or `A`, as the confidence has it.
struct Magnitudes {
    of: Array2<f32>,
    confidence: Confidence,
    unit: Option<MmaUnit>,
    /// Binary digits of a product of two operands; it is exact if fp32 has as many.
    product_bits: i32,
}

impl Magnitudes {
    /// Of `x [r, k] · weight [m, k]ᵀ`.
    fn new(x: ArrayView2<'_, f32>, weight: ArrayView2<'_, f32>, confidence: Confidence) -> Self {
        let [x_norms, weight_norms] = [x, weight].map(|rows| block_norms(rows, confidence));
        let mut of = Array2::zeros((x.nrows(), weight.nrows()));
        of.axis_chunks_iter_mut(Axis(1), PANEL)
            .into_par_iter()
            .zip(weight_norms.axis_chunks_iter(Axis(0), PANEL))
            .for_each(|(mut of, panel)| {
                general_mat_mul(1.0, &x_norms, &panel.t(), 0.0, &mut of);
            });
        if confidence == Confidence::Probabilistic {
            let rows = of.outer_iter_mut().into_par_iter();
            rows.zip(x.outer_iter())
                .for_each(|(bounds, x)| tighten(bounds, x, weight));
        }
        Self {
            of,
            confidence,
            unit: None,
            product_bits: 2 * FP32_BITS,
        }
    }

    /// The standard deviation of a sum `y` of so many terms; `magnitude` is its entry in [`Self::of`].
    #[inline(always)]
    fn std(&self, y: f64, magnitude: f64, terms: usize) -> f64 {
        let count = terms as f64;
        let rounded = match self.confidence {
            Confidence::Probabilistic => {
                // Sums of (k/K)² and of k/K·(1 − k/K) over all k, less the first term's.
                let [mut mean, mut spread] = [
                    count / 3.0 + 0.5 + 1.0 / (6.0 * count),
                    (count - 1.0 / count) / 6.0,
                ];
                let mut rounded = 1.0;
                if self.product_bits <= FP32_BITS {
                    mean -= 1.0 / (count * count);
                    spread -= (count - 1.0) / (count * count);
                    let lost = 2.0_f64.powi(self.product_bits - FP32_BITS);
                    let sum = (y * y / 3.0 + magnitude / 6.0).sqrt();
                    let share = lost * sum / (magnitude / count).sqrt();
                    // Not where there are no terms but zeros.
                    if share < 1.0 {
                        rounded = f64::min(1.0, LOST * share * (1.0 - share.ln()));
                    }
                } else {
                    spread += 1.0;
                }
                let squares = mean * y * y + spread * magnitude;
                U * (rounded * squares).max(0.0).sqrt()
            }
            Confidence::Deterministic => count * U / (1.0 - count * U) * magnitude,
        };
        match (self.unit, self.confidence) {
            (None, _) => rounded,
            // A tensor core errs to one side: what it is typically off by is no deviation from a mean of
            // zero, and counts once, where deviations count three times.
            (Some(unit), Confidence::Probabilistic) => {
                let cut = unit.typical(terms, y, magnitude) / STDS;
                self.confidence.join(rounded, cut)
            }
            (Some(unit), Confidence::Deterministic) => rounded.max(unit.bound(terms, magnitude)),
        }
    }

    /// By how much rounding to a type with this unit roundoff changes a sum that is made of `parts`
    /// rounded sums: `Σ|part|` and the magnitudes of the sums they are added to, at most. Parts of
    /// terms in random order have the mean `y/n` and the variance `Q/n`; four standard deviations.
    #[inline(always)]
    fn partial_roundings(&self, y: f64, magnitude: f64, parts: usize, unit: f64) -> f64 {
        if parts < 2 {
            return 0.0;
        }
        let parts = parts as f64;
        unit * match self.confidence {
            Confidence::Probabilistic => {
                let off = 4.0 * magnitude.sqrt();
                y.abs() + parts.sqrt() * off + (parts - 1.0) * (y.abs() + off)
            }
            Confidence::Deterministic => parts * magnitude,
        }
    }
}

/// Lowers bounds of `Q` of a row's sums to the largest share that some of them are found to be.
fn tighten(
    mut bounds: ArrayViewMut1<'_, f32>,
    x: ArrayView1<'_, f32>,
    weight: ArrayView2<'_, f32>,
) {
    let step = bounds.len().div_ceil(SAMPLES).max(1);
    let places = (0..bounds.len()).step_by(step);
    let shares = places.map(|place| {
        let terms = x.iter().zip(weight.row(place));
        let squares: f64 = terms
            .map(|(x, w)| (f64::from(*x) * f64::from(*w)).powi(2))
            .sum();
        squares / f64::from(bounds[place])
    });
    // NaN, of bounds of 0 too, is passed over.
    let share = shares.fold(0.0, f64::max);
    if share > 0.0 && share < 1.0 {
        bounds.mapv_inplace(|bound| (share * f64::from(bound)) as f32);
    }
}

/// For every block of a row the norm whose products bound the sum over the block: `√Σx²` for `A`,
/// `√Σx⁴` for `Q`.
fn block_norms(rows: ArrayView2<'_, f32>, confidence: Confidence) -> Array2<f32> {
    let blocks = rows.ncols().div_ceil(BLOCK);
    let mut norms = Array2::zeros((rows.nrows(), blocks));
    norms
        .outer_iter_mut()
        .into_par_iter()
        .zip(rows.outer_iter())
        .for_each(|(mut norms, row)| {
            let norms = norms.as_slice_mut().expect("made in rows");
            match row.as_slice() {
                Some(row) => norms_of(row, norms, confidence),
                None => norms_of(&row.to_vec(), norms, confidence),
            }
        });
    norms
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn norms_of(row: &[f32], norms: &mut [f32], confidence: Confidence) {
    /// Squares whose own squares are fp32 numbers, too, or nothing beside those that are.
    const SAFE: std::ops::Range<f32> = 1e-14..1e18;
    for (norm, block) in norms.iter_mut().zip(row.chunks(BLOCK)) {
        let mut squares = [0.0_f32; BLOCK];
        for (square, x) in squares.iter_mut().zip(block) {
            *square = x * x;
        }
        *norm = match confidence {
            Confidence::Deterministic => folded(squares, |a, b| a + b).sqrt(),
            Confidence::Probabilistic if SAFE.contains(&folded(squares, f32::max)) => {
                folded(squares.map(|square| square * square), |a, b| a + b).sqrt()
            }
            Confidence::Probabilistic => {
                let fourth = block.iter().map(|x| f64::from(*x).powi(4));
                fourth.sum::<f64>().sqrt() as f32
            }
        };
    }
}

#[inline(always)]
fn folded(mut lanes: [f32; BLOCK], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = BLOCK;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
    }
    lanes[0]
}

/// What error bounds of the operands do to every sum: `Σ dx·|w| + |x|·dw`, or the root of the sum of
/// the squares of these terms. `None` if both operands are given.
fn propagated(
    [x, weight]: [ArrayView2<'_, f32>; 2],
    [dx, dweight]: [Option<ArrayView2<'_, f32>>; 2],
    squares: bool,
) -> Option<Array2<f32>> {
    let term = |value: f32| {
        if squares { value * value } else { value.abs() }
    };
    let mut sums: Option<Array2<f32>> = None;
    for (a, b) in [(dx, Some(weight)), (Some(x), dweight)] {
        if let (Some(a), Some(b)) = (a, b) {
            let sums = sums.get_or_insert_with(|| Array2::zeros((a.nrows(), b.nrows())));
            general_mat_mul(1.0, &a.mapv(term), &b.mapv(term).t(), 1.0, sums);
        }
    }
    if squares && let Some(sums) = &mut sums {
        sums.mapv_inplace(f32::sqrt);
    }
    sums
}
