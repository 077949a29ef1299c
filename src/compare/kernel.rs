//! The one walk over the data.
//!
//! An array is cut into segments: rows (the last axis), rows at the bounds of vocabulary shards,
//! those at every [`SEGMENT`] elements. A segment is summed in fp64 in [`LANES`] interleaved lanes
//! that are folded pairwise; segments are folded in order. Threads take whole segments, so no
//! result depends on their number.

use super::Close;
use crate::tensor::Element;
use multiversion::multiversion;
use rayon::prelude::*;
use std::ops::Range;

/// Most elements in a segment: with its counterpart it stays in a core's cache.
const SEGMENT: usize = 1 << 14;
/// Independent sums; two registers of the widest vectors.
const LANES: usize = 16;

/// What is known of one segment. Differences, sums of squares and ulps are of the elements that
/// are finite on both sides; statistics are of all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) unequal: usize,
    pub(super) max_abs: f64,
    pub(super) sum_abs: f64,
    pub(super) squares: f64,
    pub(super) reference_squares: f64,
    pub(super) max_ulp: u64,
    pub(super) reference: Side,
    pub(super) candidate: Side,
    /// Elements where one side is not finite and the other not the same.
    pub(super) disagreements: usize,
    /// Elements that are not finite on both sides, and the same.
    pub(super) agreements: usize,
    pub(super) outside_close: usize,
    pub(super) elements: usize,
}

impl Segment {
    /// Elements that are finite on both sides.
    pub(super) fn comparable(&self) -> usize {
        self.elements - self.disagreements - self.agreements
    }
}

/// Statistics of one side of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) sum: f64,
    pub(super) nans: usize,
    pub(super) infinities: usize,
}

/// The segments of a row of this length, in order.
pub(super) fn segments(row: usize, shards: usize) -> Vec<Range<usize>> {
    let shard = row / shards.max(1);
    let starts = (0..shards).map(|index| index * shard);
    starts
        .flat_map(|start| {
            let cuts = (start..start + shard).step_by(SEGMENT);
            cuts.map(move |cut| cut..(cut + SEGMENT).min(start + shard))
        })
        .collect()
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
pub(super) fn place(part: usize, row: usize, pieces: &[Range<usize>]) -> Range<usize> {
    let start = part / pieces.len() * row;
    let piece = &pieces[part % pieces.len()];
    start + piece.start..start + piece.end
}

/// Compares one segment.
pub(super) fn segment<T: Element>(
    reference: &[T],
    candidate: &[T],
    close: Option<Close>,
) -> Segment {
    let fast = finite_segment(reference, candidate);
    // A sum of finite differences of finite numbers is finite: anything else shows here.
    let mut segment = if fast.sum_abs.is_finite() {
        fast
    } else {
        any_segment(reference, candidate)
    };
    segment.elements = reference.len();
    if let Some(close) = close {
        let pairs = reference.iter().zip(candidate);
        let outside = pairs.filter(|(r, c)| !close.holds(r.to_f64(), c.to_f64()));
        segment.outside_close = outside.count();
    }
    segment
}

/// The index of the first element that is finite on both sides and differs by `difference`.
pub(super) fn first_at<T: Element>(
    reference: &[T],
    candidate: &[T],
    difference: f64,
) -> Option<usize> {
    let pairs = reference.iter().zip(candidate);
    pairs
        .map(|(r, c)| (r.to_f64() - c.to_f64()).abs())
        .position(|found| found == difference)
}

/// The index of the element whose difference is largest in units of what it is allowed, the first of
/// several, and that ratio. Elements that are not finite on both sides are judged elsewhere; `None` if
/// there are no others.
pub(super) fn worst_of<T: Element>(
    reference: &[T],
    candidate: &[T],
    allowed: &[f32],
) -> Option<(f64, usize)> {
    let chunks = reference
        .par_chunks(SEGMENT)
        .zip(candidate.par_chunks(SEGMENT))
        .zip(allowed.par_chunks(SEGMENT));
    let worst: Vec<f64> = chunks
        .map(|((reference, candidate), allowed)| largest_ratio(reference, candidate, allowed))
        .collect();
    let largest = worst.iter().copied().fold(-1.0, larger);
    // Found again rather than carried along: a maximum alone is vectorised.
    let start = worst.iter().position(|ratio| *ratio == largest)? * SEGMENT;
    let pairs = reference[start..].iter().zip(&candidate[start..]);
    let mut ratios = pairs
        .zip(&allowed[start..])
        .map(|((reference, candidate), allowed)| ratio(*reference, *candidate, *allowed));
    let offset = ratios.position(|ratio| ratio == largest)?;
    Some((largest, start + offset))
}

/// −1 if no element is finite on both sides.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn largest_ratio<T: Element>(reference: &[T], candidate: &[T], allowed: &[f32]) -> f64 {
    let mut lanes = [-1.0; LANES];
    for (chunk, allowed) in allowed.chunks(LANES).enumerate() {
        for (lane, allowed) in allowed.iter().enumerate() {
            let index = chunk * LANES + lane;
            lanes[lane] = larger(
                lanes[lane],
                ratio(reference[index], candidate[index], *allowed),
            );
        }
    }
    fold(lanes, larger)
}

/// Of equal values 0, whatever is allowed; NaN if one is not finite. A budget that is no number
/// allows nothing.
#[inline(always)]
fn ratio<T: Element>(reference: T, candidate: T, allowed: f32) -> f64 {
    let (r, c) = (reference.to_f64(), candidate.to_f64());
    let difference = (r - c).abs();
    if difference == 0.0 {
        0.0
    } else if difference == f64::INFINITY {
        f64::NAN
    } else if !allowed.is_finite() {
        f64::INFINITY
    } else {
        difference / f64::from(allowed)
    }
}

/// All sums, on the assumption that every element is finite; `sum_abs` is not finite if one is
/// not.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn finite_segment<T: Element>(reference: &[T], candidate: &[T]) -> Segment {
    let mut lanes = Lanes::<T>::new();
    let mut references = reference.chunks_exact(LANES);
    let mut candidates = candidate.chunks_exact(LANES);
    for (reference, candidate) in (&mut references).zip(&mut candidates) {
        for lane in 0..LANES {
            lanes.add(lane, reference[lane], candidate[lane]);
        }
    }
    // A copy, because a lane that is chosen at run time has to lie in memory: those of the loop
    // above stay in registers.
    let mut all = lanes;
    let rest = references.remainder().iter().zip(candidates.remainder());
    for (lane, (reference, candidate)) in rest.enumerate() {
        all.add(lane, *reference, *candidate);
    }
    all.fold()
}

#[derive(Clone, Copy)]
struct Lanes<T: Element> {
    unequal: [u32; LANES],
    max_abs: [f64; LANES],
    sum_abs: [f64; LANES],
    squares: [f64; LANES],
    reference_squares: [f64; LANES],
    max_ulp: [T::Ulps; LANES],
    min: [[f64; LANES]; 2],
    max: [[f64; LANES]; 2],
    sum: [[f64; LANES]; 2],
}

impl<T: Element> Lanes<T> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            unequal: [0; LANES],
            max_abs: [0.0; LANES],
            sum_abs: [0.0; LANES],
            squares: [0.0; LANES],
            reference_squares: [0.0; LANES],
            max_ulp: [T::Ulps::default(); LANES],
            min: [[f64::INFINITY; LANES]; 2],
            max: [[f64::NEG_INFINITY; LANES]; 2],
            sum: [[0.0; LANES]; 2],
        }
    }

    #[inline(always)]
    fn add(&mut self, lane: usize, reference: T, candidate: T) {
        let (r, c) = (reference.to_f64(), candidate.to_f64());
        let difference = r - c;
        let magnitude = difference.abs();
        self.unequal[lane] += u32::from(r != c);
        self.max_abs[lane] = larger(self.max_abs[lane], magnitude);
        self.sum_abs[lane] += magnitude;
        self.squares[lane] += difference * difference;
        self.reference_squares[lane] += r * r;
        self.max_ulp[lane] = self.max_ulp[lane].max(reference.ulps(candidate));
        for (side, value) in [r, c].into_iter().enumerate() {
            self.min[side][lane] = smaller(self.min[side][lane], value);
            self.max[side][lane] = larger(self.max[side][lane], value);
            self.sum[side][lane] += value;
        }
    }

    #[inline(always)]
    fn fold(self) -> Segment {
        let side = |side: usize| Side {
            min: fold(self.min[side], smaller),
            max: fold(self.max[side], larger),
            sum: fold(self.sum[side], |a, b| a + b),
            nans: 0,
            infinities: 0,
        };
        Segment {
            unequal: self.unequal.iter().map(|count| *count as usize).sum(),
            max_abs: fold(self.max_abs, larger),
            sum_abs: fold(self.sum_abs, |a, b| a + b),
            squares: fold(self.squares, |a, b| a + b),
            reference_squares: fold(self.reference_squares, |a, b| a + b),
            max_ulp: fold(self.max_ulp, Ord::max).into(),
            reference: side(0),
            candidate: side(1),
            disagreements: 0,
            agreements: 0,
            outside_close: 0,
            elements: 0,
        }
    }
}

#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

#[inline(always)]
fn smaller(a: f64, b: f64) -> f64 {
    if b < a { b } else { a }
}

/// Folds neighbours until one is left.
#[inline(always)]
fn fold<V: Copy>(lanes: [V; LANES], join: impl Fn(V, V) -> V) -> V {
    let mut lanes = lanes;
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] = join(lanes[2 * lane], lanes[2 * lane + 1]);
        }
    }
    lanes[0]
}

/// All sums of a segment that holds elements that are not finite: element by element.
fn any_segment<T: Element>(reference: &[T], candidate: &[T]) -> Segment {
    let [mut references, mut candidates] = [Vec::new(), Vec::new()];
    let (mut agreements, mut disagreements) = (0, 0);
    for (r, c) in reference.iter().zip(candidate) {
        let (wide_r, wide_c) = (r.to_f64(), c.to_f64());
        if wide_r.is_finite() && wide_c.is_finite() {
            references.push(*r);
            candidates.push(*c);
        } else if wide_r == wide_c || wide_r.is_nan() && wide_c.is_nan() {
            agreements += 1;
        } else {
            disagreements += 1;
        }
    }
    let finite = finite_segment(&references, &candidates);
    Segment {
        unequal: finite.unequal + disagreements,
        reference: Side::of(reference),
        candidate: Side::of(candidate),
        disagreements,
        agreements,
        ..finite
    }
}

impl Side {
    fn of<T: Element>(values: &[T]) -> Self {
        let start = Self {
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
            nans: 0,
            infinities: 0,
        };
        let mut side = values.iter().fold(start, |side, value| {
            let value = value.to_f64();
            Self {
                min: smaller(side.min, value),
                max: larger(side.max, value),
                sum: side.sum + value,
                nans: side.nans + usize::from(value.is_nan()),
                infinities: side.infinities + usize::from(value.is_infinite()),
            }
        });
        if side.nans > 0 {
            (side.min, side.max) = (f64::NAN, f64::NAN);
        }
        side
    }
}
