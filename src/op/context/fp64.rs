//! Weighted values in fp64.

use super::Context;
use crate::error::Result;
use crate::op::product::{matrices, product};
use crate::op::{Arguments, Fp64Kernel};
use crate::tensor::Tensor;
use rayon::prelude::*;

impl Fp64Kernel for Context {
    /// Heads side by side: `[b, n, s, d]` becomes `[b, s, n·d]`.
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let (probs, value) = (
            matrices(arguments.inputs[0])?,
            matrices(arguments.inputs[1])?,
        );
        let heads: Vec<Vec<f64>> = (0..value.len())
            .into_par_iter()
            .map(|index| product(probs[index].view(), value[index].view()))
            .map(|head| head.into_raw_vec_and_offset().0)
            .collect();
        let by_head = Tensor::from_vec(arguments.inputs[1].shape(), heads.concat())?;
        Ok(by_head.permuted(&[0, 2, 1, 3]).as_slice::<f64>()?.to_vec())
    }
}
