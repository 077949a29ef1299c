//! Comparing on a GPU: a kernel measures the segments (`compare.cu`, in the order of [`super::kernel`]),
//! and what they say is put together here as it is of the CPU's.

use super::kernel::{Segment, Side, place, segments};
use super::metrics::{Cut, Worst, same_shape};
use super::statistics::shard_count;
use super::{Extreme, Measure, Measuring, Metrics, Spec, compare};
use crate::backend::Backend;
use crate::backend::cuda::{Arg, Cuda, CudaArray, CudaWords, Grid, Kernel, Source};
use crate::error::Result;
use crate::tensor::position;
use std::ops::Range;

pub(crate) const SOURCE: Source = Source::new(include_str!("compare.cu"));
const COMPARE: Kernel = SOURCE.kernel("compare");
/// Words that the kernel writes of a segment.
const WORDS: usize = 22;

impl Measure for Cuda {
    fn measure(
        &self,
        reference: &CudaArray,
        candidate: &CudaArray,
        spec: &Spec<'_>,
    ) -> Result<Measuring> {
        same_shape(reference.shape(), candidate.shape())?;
        if spec.budget.is_some() || reference.dtype() != candidate.dtype() {
            let [reference, candidate] = [self.download(reference)?, self.download(candidate)?];
            return compare(&reference, &candidate, spec).map(Measuring::done);
        }
        let shape = reference.shape().to_vec();
        let elements = shape.iter().product();
        let row = shape.last().copied().unwrap_or(1);
        let pieces = segments(row, shard_count(row, spec.vocab_shards)?);
        let cut = Cut {
            row,
            pieces: pieces.len(),
            shards: spec.vocab_shards,
        };
        let close = spec.close.map(|close| (close.atol, close.rtol));
        let words = send(self, reference, candidate, &pieces, close)?;
        Ok(Measuring::UnderWay(Box::new(move || {
            let words = words.wait()?;
            let segments = words.chunks_exact(WORDS).enumerate();
            let measured: Vec<Measured> = segments
                .map(|(part, words)| Measured::read(words, place(part, row, &pieces).len()))
                .collect();
            let parts: Vec<Segment> = measured.iter().map(|each| each.segment).collect();
            let extreme = Worst::of(&parts).map(|worst| {
                let found = &measured[worst.part];
                let index = place(worst.part, row, &pieces).start + found.index;
                Extreme {
                    difference: worst.difference,
                    position: position(&shape, index),
                    reference: found.reference,
                    candidate: found.candidate,
                }
            });
            Metrics::merge(elements, &cut, &parts, extreme, None)
        })))
    }
}

/// Sends the comparison of two arrays of one shape and type, with rows cut into `pieces`: [`WORDS`] of
/// every segment.
fn send(
    gpu: &Cuda,
    reference: &CudaArray,
    candidate: &CudaArray,
    pieces: &[Range<usize>],
    close: Option<(f64, f64)>,
) -> Result<CudaWords> {
    let segments = reference.rows() * pieces.len();
    let bounds = pieces
        .iter()
        .flat_map(|piece| [piece.start as i64, piece.end as i64]);
    let bounds = gpu.table(&[pieces.len(), 2], bounds.collect::<Vec<i64>>())?;
    let [reference, candidate] = [gpu.contiguous(reference)?, gpu.contiguous(candidate)?];
    let (atol, rtol) = close.unwrap_or_default();
    let args = [
        Arg::Array(&reference),
        Arg::Array(&candidate),
        segments.into(),
        reference.row_len().into(),
        Arg::I32(pieces.len() as i32),
        Arg::Array(&bounds),
        close.is_some().into(),
        atol.into(),
        rtol.into(),
        Arg::Result,
    ];
    let grid = Grid::blocks(segments.div_ceil(8), (128, 1));
    gpu.compute_words(reference.dtype(), segments * WORDS, COMPARE, grid, &args)
}

/// A segment, and the first element with its largest difference.
struct Measured {
    segment: Segment,
    index: usize,
    reference: f64,
    candidate: f64,
}

impl Measured {
    /// The words of a segment of `elements`, in the order that `compare.cu` documents.
    fn read(words: &[u64], elements: usize) -> Self {
        let count = |word: usize| words[word] as usize;
        let number = |word: usize| f64::from_bits(words[word]);
        let side = |counts: usize, numbers: usize| Side {
            min: number(numbers),
            max: number(numbers + 1),
            sum: number(numbers + 2),
            nans: count(counts),
            infinities: count(counts + 1),
        };
        Self {
            segment: Segment {
                unequal: count(0),
                disagreements: count(1),
                agreements: count(2),
                outside_close: count(3),
                max_ulp: words[4],
                max_abs: number(10),
                sum_abs: number(11),
                squares: number(12),
                reference_squares: number(13),
                reference: side(6, 14),
                candidate: side(8, 17),
                elements,
            },
            index: count(5),
            reference: number(20),
            candidate: number(21),
        }
    }
}
