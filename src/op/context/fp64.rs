//! Weighted values in fp64.

use super::Context;
use crate::error::Result;
use crate::op::product::{group_of, matrices, product};
use crate::op::{Arguments, Fp64Kernel};
use crate::tensor::Tensor;
use rayon::prelude::*;

impl Fp64Kernel for Context {
    /// Heads side by side: `[b, n, s, d]` becomes `[b, s, n·d]`.
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let [probs, value] = [arguments.inputs[0], arguments.inputs[1]];
        let &[batch, groups, positions, head_dim] = value.shape() else {
            unreachable!("the step's shape was checked");
        };
        let heads = probs.shape()[1];
        let (probs, value) = (matrices(probs)?, matrices(value)?);
        let by_head: Vec<Vec<f64>> = (0..probs.len())
            .into_par_iter()
            .map(|index| {
                let value = &value[group_of(index, heads, groups)];
                product(probs[index].view(), value.view())
            })
            .map(|head| head.into_raw_vec_and_offset().0)
            .collect();
        let shape = [batch, heads, positions, head_dim];
        let by_head = Tensor::from_vec(&shape, by_head.concat())?;
        Ok(by_head.permuted(&[0, 2, 1, 3]).as_slice::<f64>()?.to_vec())
    }
}
