//! Attention scores in fp64.

use super::{AlibiForm, AttentionScores};
use crate::error::Result;
use crate::op::product::{matrices, product};
use crate::op::{Arguments, Fp64Kernel};
use rayon::prelude::*;

impl Fp64Kernel for AttentionScores {
    /// The ALiBi bias is not rounded to any type.
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let scales = [self.product_scale, self.alibi_scale].map(f64::from);
        let (query, key) = (
            matrices(arguments.inputs[0])?,
            matrices(arguments.inputs[1])?,
        );
        let heads: Vec<Vec<f64>> = (0..query.len())
            .into_par_iter()
            .map(|index| {
                let slope = f64::from(self.alibi_slopes[index % self.alibi_slopes.len()]);
                let mut out = product(query[index].view(), key[index].t());
                for ((row, column), out) in out.indexed_iter_mut() {
                    let distance = match self.alibi_form {
                        AlibiForm::KeyPosition => column as f64,
                        AlibiForm::Distance => column as f64 - row as f64,
                    };
                    *out = scales[0] * *out + scales[1] * slope * distance;
                }
                out.into_raw_vec_and_offset().0
            })
            .collect();
        Ok(heads.concat())
    }
}
