//! Attention scores on the CPU.

use super::{AlibiForm, AttentionScores};
use crate::error::Result;
use crate::op::product::{matrix, widened_head};
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;
use ndarray::Array2;
use ndarray::linalg::general_mat_mul;
use rayon::prelude::*;

impl CpuKernel for AttentionScores {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::product(numerics.out).with_rounding(numerics.rounding)
    }

    /// The product is summed in fp32, scaled, and added to the scaled ALiBi term in fp32; one
    /// rounding, or with [`Rounding::EachOperation`] one of the sum, of its scaled value, and of what
    /// is added to it.
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
                let round = |x: f32| match rounding {
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
        Ok(out)
    }
}
