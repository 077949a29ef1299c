//! Weighted values on the CPU.

use super::Context;
use crate::error::Result;
use crate::op::product::{group_of, matrix, widened_head};
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView4};
use rayon::prelude::*;

impl CpuKernel for Context {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics.in_own_order() == Numerics::product(numerics.out)
    }

    /// Summed in fp32, one rounding.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        let [probs, value] = [arguments.input::<T>(0)?, arguments.input(1)?];
        let &[batch, groups, positions, head_dim] = arguments.inputs[1].shape() else {
            unreachable!("the step's shape was checked");
        };
        let heads = arguments.inputs[0].shape()[1];
        if value.is_empty() {
            return Ok(Vec::new());
        }
        let mut by_head = vec![T::zeroed(); batch * heads * positions * head_dim];
        by_head
            .par_chunks_mut(positions * head_dim)
            .enumerate()
            .for_each(|(index, out)| {
                let probs = widened_head(probs, index, positions * positions);
                let value =
                    widened_head(value, group_of(index, heads, groups), positions * head_dim);
                let probs = matrix(&probs, positions, positions);
                let value = matrix(&value, positions, head_dim);
                let mut sums = Array2::<f32>::zeros((positions, head_dim));
                general_mat_mul(1.0, &probs, &value, 0.0, &mut sums);
                for (out, sum) in out.iter_mut().zip(&sums) {
                    *out = T::from_f32(*sum);
                }
            });
        let by_head = ArrayView4::from_shape((batch, heads, positions, head_dim), &by_head)
            .expect("one chunk a head");
        let side_by_side = by_head.permuted_axes([0, 2, 1, 3]);
        Ok(side_by_side.iter().copied().collect())
    }
}
