//! Products with a weight on the CPU.

use super::{Linear, Partials};
use crate::error::Result;
use crate::op::product::matrix;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::{Float, Tensor};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Array3, Axis, s};
use rayon::prelude::*;

impl CpuKernel for Linear {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics.in_own_order() == Numerics::product(numerics.out)
    }

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        if arguments.inputs[0].dtype() != T::DTYPE || arguments.params[0].dtype() != T::DTYPE {
            return self.upcast(arguments);
        }
        let bias = self.bias.then(|| arguments.param(1)).transpose()?;
        let [x, weight] = [arguments.input(0)?, arguments.param(0)?];
        let k = arguments.inputs[0].row_len();
        let sequences = match arguments.inputs[0].shape() {
            [sequences, _, _] => *sequences,
            _ => 1,
        };
        Ok(linear(x, weight, bias, k, self.partials, sequences))
    }
}

impl Linear {
    /// Of operands of narrower types than the result, which are widened exactly: a router in fp32 in a model of a
    /// half type.
    fn upcast<T: Float>(&self, arguments: &Arguments<'_>) -> Result<Vec<T>> {
        let cast = |tensors: &[&Tensor]| -> Result<Vec<Tensor>> {
            tensors.iter().map(|tensor| tensor.cast(T::DTYPE)).collect()
        };
        let (inputs, params) = (cast(arguments.inputs)?, cast(arguments.params)?);
        let (inputs, params): (Vec<&Tensor>, Vec<&Tensor>) =
            (inputs.iter().collect(), params.iter().collect());
        let arguments = Arguments {
            inputs: &inputs,
            params: &params,
        };
        self.cpu(&arguments, Rounding::Once)
    }
}

/// Rows of the weight that one thread multiplies at a time: as fp32 they stay in its cache.
const PANEL: usize = 64;

/// `x [r, k] · weight [m, k]ᵀ + bias [m]` → `[r, m]`.
///
/// With several `partials` the sum over each equal range of `k` is rounded, and the rounded sums are added
/// as these say. The bias, if any, is added in fp32 before the (last) rounding. `x` is of so many
/// `sequences`.
fn linear<T: Float>(
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    k: usize,
    partials: Partials,
    sequences: usize,
) -> Vec<T> {
    let [rows, width] = [x, weight].map(|matrix| matrix.len().checked_div(k).unwrap_or(0));
    let positions = rows.checked_div(sequences).unwrap_or(0).max(1);
    let chunk = partials.chunk(rows * width, T::DTYPE.size());
    each_sum(
        x,
        weight,
        k,
        partials.count,
        T::zeroed(),
        |row, column, parts| {
            let (sequence, position) = (row / positions, row % positions);
            let place = (position * sequences + sequence) * width + column;
            let mut sum = partials.sum::<T>(parts, place / chunk);
            if let Some(bias) = bias {
                sum += bias[column].to_f32();
            }
            T::from_f32(sum)
        },
    )
}

/// `of` every element of `x [r, k] · weight [m, k]ᵀ`: of its row, its column, and the sums over `count`
/// equal ranges of `k`, rounded if there are several.
///
/// Half weights are widened a panel at a time, never as a whole. Products are exact in fp32, sums
/// are fp32 in `matrixmultiply`'s order over `k`, which depends on `k` alone.
pub(in crate::op) fn each_sum<T: Float, O: Copy + Send + Sync>(
    x: &[T],
    weight: &[T],
    k: usize,
    count: usize,
    empty: O,
    of: impl Fn(usize, usize, &[f32]) -> O + Sync,
) -> Vec<O> {
    if k == 0 {
        // Nothing to sum; and no row length to divide by.
        return Vec::new();
    }
    let (rows, width) = (x.len() / k, weight.len() / k);
    let x = T::widened(x);
    let x = matrix(&x, rows, k);
    let mut out = Array2::from_elem((rows, width), empty);
    out.axis_chunks_iter_mut(Axis(1), PANEL)
        .into_par_iter()
        .enumerate()
        .for_each(|(number, mut out)| {
            let columns = out.ncols();
            let first = number * PANEL;
            let panel = T::widened(&weight[first * k..(first + columns) * k]);
            let panel = matrix(&panel, columns, k);
            let length = k / count;
            let mut sums = Array2::<f32>::zeros((rows, columns));
            let mut parts = Array3::<f32>::zeros((rows, columns, count));
            for part in 0..count {
                let range = s![.., part * length..(part + 1) * length];
                let (x, panel) = (x.slice(range), panel.slice(range));
                general_mat_mul(1.0, &x, &panel.t(), 0.0, &mut sums);
                parts
                    .index_axis_mut(Axis(2), part)
                    .zip_mut_with(&sums, |part, sum| {
                        // One sum is rounded when it is stored, with its bias.
                        *part = if count == 1 {
                            *sum
                        } else {
                            T::from_f32(*sum).to_f32()
                        };
                    });
            }
            for ((row, column), out) in out.indexed_iter_mut() {
                let parts = parts.slice(s![row, column, ..]);
                let parts = parts.as_slice().expect("the last axis is in one piece");
                *out = of(row, first + column, parts);
            }
        });
    out.into_raw_vec_and_offset().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    fn bf16s(values: &[f32]) -> Vec<bf16> {
        values.iter().map(|v| bf16::from_f32(*v)).collect()
    }

    #[test]
    fn the_bias_is_in_the_sum_before_the_rounding() {
        // 1 + 2^-9 is no bf16: the product alone rounds to 1, and half an ulp more to 1 + 2^-7.
        let x = bf16s(&[1.0, 0.5_f32.powi(9)]);
        let ones = bf16s(&[1.0, 1.0]);
        let bias = bf16s(&[0.5_f32.powi(8)]);
        assert_eq!(
            linear(&x, &ones, None, 2, Partials::in_order(1), 1),
            bf16s(&[1.0])
        );
        assert_eq!(
            linear(&x, &ones, Some(&bias), 2, Partials::in_order(1), 1),
            bf16s(&[1.0 + 0.5_f32.powi(7)])
        );
    }

    #[test]
    fn partial_sums_are_rounded_before_they_are_added() {
        // 1 + 2^-9 rounds to 1 as the sum of a rank; in one sum the two small terms add up to half
        // an ulp, and with the third to more.
        let small = 0.5_f32.powi(9);
        let x = bf16s(&[1.0, small, small, small]);
        let ones = bf16s(&[1.0; 4]);
        assert_eq!(
            linear(&x, &ones, None, 4, Partials::in_order(1), 1),
            bf16s(&[1.0 + 0.5_f32.powi(7)])
        );
        assert_eq!(
            linear(&x, &ones, None, 4, Partials::in_order(2), 1),
            bf16s(&[1.0])
        );
    }

    proptest! {
        /// Integers small enough that every sum is exact in fp32, so any order gives these bits;
        /// widths and rows cross the panel and the kernel's edges.
        #[test]
        fn products_are_right_at_every_edge(
            rows in 1_usize..9,
            width in prop_oneof![1_usize..9, 60_usize..70, 120_usize..140],
            half in 1_usize..40,
            seed in any::<u32>(),
        ) {
            let k = 2 * half;
            let mut state = seed;
            let mut draw = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 28) as f32 - 8.0
            };
            let x: Vec<f32> = (0..rows * k).map(|_| draw()).collect();
            let weight: Vec<f32> = (0..width * k).map(|_| draw()).collect();
            let bias: Vec<f32> = (0..width).map(|_| draw()).collect();
            let expected: Vec<f32> = (0..rows * width)
                .map(|i| {
                    let (row, column) = (i / width, i % width);
                    let terms = (0..k).map(|j| x[row * k + j] * weight[column * k + j]);
                    terms.sum::<f32>() + bias[column]
                })
                .collect();
            prop_assert_eq!(&linear(&x, &weight, Some(&bias), k, Partials::in_order(1), 1), &expected);
            prop_assert_eq!(&linear(&x, &weight, Some(&bias), k, Partials::in_order(2), 1), &expected);
        }

        /// A row's result does not depend on the rows beside it.
        #[test]
        fn rows_are_independent_of_the_batch(rows in 2_usize..40, seed in any::<u32>()) {
            let (k, width) = (96, 70);
            let mut state = seed;
            let mut draw = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state as f32 / u32::MAX as f32 - 0.5
            };
            let x: Vec<f32> = (0..rows * k).map(|_| draw()).collect();
            let weight: Vec<f32> = (0..width * k).map(|_| draw()).collect();
            let batch = linear(&x, &weight, None, k, Partials::in_order(1), 1);
            for row in 0..rows {
                let alone = linear(&x[row * k..(row + 1) * k], &weight, None, k, Partials::in_order(1), 1);
                prop_assert_eq!(&alone, &batch[row * width..(row + 1) * width]);
            }
        }
    }
}
