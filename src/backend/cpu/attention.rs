//! Splitting heads, scores and context. Shapes: batch `b`, heads `n`, positions `s`, head dim `d`.

use crate::op::{AlibiForm, HeadPart, QkvLayout, Rounding};
use crate::tensor::{Element, Float};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewD, Axis};
use rayon::prelude::*;

/// One of queries, keys and values out of the fused `[b, s, 3·n·d]` → `[b, n, s, d]`; copied.
pub(crate) fn split_heads<T: Element>(
    fused: ArrayViewD<'_, T>,
    part: HeadPart,
    layout: QkvLayout,
    heads: usize,
) -> Vec<T> {
    let (batch, positions) = (fused.shape()[0], fused.shape()[1]);
    let head_dim = fused.shape()[2] / (3 * heads);
    let QkvLayout::PerHead = layout;
    let split = fused
        .into_shape_with_order((batch, positions, heads, 3, head_dim))
        .expect("the step's shape was checked");
    let part = split.index_axis_move(Axis(3), part as usize);
    part.permuted_axes([0, 2, 1, 3]).iter().copied().collect()
}

/// `product_scale · q·kᵀ + alibi_scale · a` with the ALiBi bias `a` rounded to the storage type as
/// the tensor that frameworks add.
pub(super) struct Scores<'a> {
    pub(super) product_scale: f32,
    pub(super) alibi_scale: f32,
    pub(super) alibi_slopes: &'a [f32],
    pub(super) alibi_form: AlibiForm,
    pub(super) rounding: Rounding,
}

impl Scores<'_> {
    /// query, key of shape `[b, n, s, d]` → `[b, n, s, s]`. The product is summed in fp32, scaled,
    /// and added to the scaled ALiBi term in fp32; one rounding, or with [`Rounding::EachOperation`]
    /// one of the sum, of its scaled value, and of what is added to it.
    pub(super) fn compute<T: Float>(&self, query: &[T], key: &[T], shape: &[usize]) -> Vec<T> {
        let &[batch, heads, positions, head_dim] = shape else {
            unreachable!("the step's shape was checked");
        };
        let mut out = vec![T::zeroed(); batch * heads * positions * positions];
        if out.is_empty() {
            return out;
        }
        out.par_chunks_mut(positions * positions)
            .enumerate()
            .for_each(|(index, out)| {
                let of_head = |all| widened_head(all, index, positions * head_dim);
                let (query, key): (Vec<f32>, Vec<f32>) = (of_head(query), of_head(key));
                let query = matrix(&query, positions, head_dim);
                let key = matrix(&key, positions, head_dim);
                let mut sums = Array2::<f32>::zeros((positions, positions));
                general_mat_mul(1.0, &query, &key.t(), 0.0, &mut sums);
                let slope = self.alibi_slopes[index % heads];
                let round = |x: f32| match self.rounding {
                    Rounding::Once => x,
                    Rounding::EachOperation => T::from_f32(x).to_f32(),
                };
                let biases = |query: usize| -> Vec<f32> {
                    let bias = |key| self.alibi_form.bias(slope, query, key);
                    let stored = |key| T::from_f32(bias(key)).to_f32();
                    (0..positions)
                        .map(|key| round(self.alibi_scale * stored(key)))
                        .collect()
                };
                let mut alibi = biases(0);
                for (query, (out, sums)) in
                    out.chunks_mut(positions).zip(sums.outer_iter()).enumerate()
                {
                    if self.alibi_form == AlibiForm::Distance {
                        alibi = biases(query);
                    }
                    for ((out, sum), alibi) in out.iter_mut().zip(sums).zip(&alibi) {
                        let product = round(self.product_scale * round(*sum));
                        *out = T::from_f32(product + alibi);
                    }
                }
            });
        out
    }
}

/// probabilities `[b, n, s, s]` times value of `shape` `[b, n, s, d]` → `[b, s, n·d]`; summed in
/// fp32, one rounding.
pub(super) fn context<T: Float>(probs: &[T], value: &[T], shape: &[usize]) -> Vec<T> {
    let &[batch, heads, positions, head_dim] = shape else {
        unreachable!("the step's shape was checked");
    };
    if value.is_empty() {
        return Vec::new();
    }
    let mut by_head = vec![T::zeroed(); value.len()];
    by_head
        .par_chunks_mut(positions * head_dim)
        .enumerate()
        .for_each(|(index, out)| {
            let probs = widened_head(probs, index, positions * positions);
            let value = widened_head(value, index, positions * head_dim);
            let probs = matrix(&probs, positions, positions);
            let value = matrix(&value, positions, head_dim);
            let mut sums = Array2::<f32>::zeros((positions, head_dim));
            general_mat_mul(1.0, &probs, &value, 0.0, &mut sums);
            for (out, sum) in out.iter_mut().zip(&sums) {
                *out = T::from_f32(*sum);
            }
        });
    let by_head = ndarray::ArrayView4::from_shape((batch, heads, positions, head_dim), &by_head)
        .expect("one chunk a head");
    by_head
        .permuted_axes([0, 2, 1, 3])
        .iter()
        .copied()
        .collect()
}

fn widened_head<T: Float>(all: &[T], index: usize, len: usize) -> Vec<f32> {
    T::widened(&all[index * len..(index + 1) * len]).into_owned()
}

fn matrix(data: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, columns), data).expect("cut to one head")
}
