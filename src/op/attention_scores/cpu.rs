//! Attention scores on the CPU.

use super::{Alibi, AlibiForm, AlibiSum, AttentionScores};
use crate::error::Result;
use crate::op::product::{group_of, matrix, widened_head};
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;
use ndarray::Array2;
use ndarray::linalg::general_mat_mul;
use rayon::prelude::*;

impl CpuKernel for AttentionScores {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics.in_own_order() == Numerics::product(numerics.out).with_rounding(numerics.rounding)
    }

    /// The product is summed in fp32, scaled, and added to the scaled ALiBi term in fp32; one
    /// rounding, and one before the addition where [`AlibiSum`] says so; or with
    /// [`Rounding::EachOperation`] one of the sum, of its scaled value, and of what is added to it.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>> {
        let [query, key] = [arguments.input::<T>(0)?, arguments.input(1)?];
        let shape = arguments.inputs[0].shape();
        let &[batch, heads, positions, head_dim] = shape else {
            unreachable!("the step's shape was checked");
        };
        let mut out = vec![T::zeroed(); batch * heads * positions * positions];
        if out.is_empty() {
            return Ok(out);
        }
        let groups = arguments.inputs[1].shape()[1];
        out.par_chunks_mut(positions * positions)
            .enumerate()
            .for_each(|(index, out)| {
                let len = positions * head_dim;
                let query: Vec<f32> = widened_head(query, index, len);
                let key: Vec<f32> = widened_head(key, group_of(index, heads, groups), len);
                let query = matrix(&query, positions, head_dim);
                let key = matrix(&key, positions, head_dim);
                let mut sums = Array2::<f32>::zeros((positions, positions));
                general_mat_mul(1.0, &query, &key.t(), 0.0, &mut sums);
                let round = |x: f32| match rounding {
                    Rounding::Once => x,
                    Rounding::EachOperation => T::from_f32(x).to_f32(),
                };
                let scaled = |sum: f32| round(self.product_scale * round(sum));
                let Some(alibi) = &self.alibi else {
                    for (out, sum) in out.iter_mut().zip(&sums) {
                        *out = T::from_f32(scaled(*sum));
                    }
                    return;
                };
                let biases = |query| alibi.row::<T>(index % heads, query, positions, round);
                let mut bias = biases(0);
                for (query, (out, sums)) in
                    out.chunks_mut(positions).zip(sums.outer_iter()).enumerate()
                {
                    if alibi.form == AlibiForm::Distance {
                        bias = biases(query);
                    }
                    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias) {
                        let product = match alibi.sum {
                            AlibiSum::InProduct => scaled(*sum),
                            AlibiSum::Rounded => T::from_f32(scaled(*sum)).to_f32(),
                        };
                        *out = T::from_f32(product + bias);
                    }
                }
            });
        Ok(out)
    }
}

impl Alibi {
    /// What is added to the scores of a query, one a key.
    fn row<T: Float>(
        &self,
        head: usize,
        query: usize,
        keys: usize,
        round: impl Fn(f32) -> f32,
    ) -> Vec<f32> {
        let stored = |key| T::from_f32(self.form.bias(self.slopes[head], query, key)).to_f32();
        let biases = (0..keys).map(|key| round(self.scale * stored(key)));
        biases.collect()
    }
}
