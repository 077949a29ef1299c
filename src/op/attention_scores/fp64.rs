//! Attention scores in fp64.

use super::{AlibiForm, AttentionScores};
use crate::error::Result;
use crate::op::product::{group_of, matrices, product};
use crate::op::{Arguments, Fp64Kernel};
use rayon::prelude::*;

impl Fp64Kernel for AttentionScores {
    /// The ALiBi bias is not rounded to any type.
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let [query, key] = [arguments.inputs[0], arguments.inputs[1]];
        let (heads, groups) = (query.shape()[1], key.shape()[1]);
        let (query, key) = (matrices(query)?, matrices(key)?);
        let scale = f64::from(self.product_scale);
        let scores: Vec<Vec<f64>> = (0..query.len())
            .into_par_iter()
            .map(|index| {
                let key = &key[group_of(index, heads, groups)];
                let mut out = product(query[index].view(), key.t());
                for ((row, column), out) in out.indexed_iter_mut() {
                    let bias = self.alibi.as_ref().map_or(0.0, |alibi| {
                        let slope = f64::from(alibi.slopes[index % heads]);
                        let distance = match alibi.form {
                            AlibiForm::KeyPosition => column as f64,
                            AlibiForm::Distance => column as f64 - row as f64,
                        };
                        f64::from(alibi.scale) * slope * distance
                    });
                    *out = scale * *out + bias;
                }
                out.into_raw_vec_and_offset().0
            })
            .collect();
        Ok(scores.concat())
    }
}
