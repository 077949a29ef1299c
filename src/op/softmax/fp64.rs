//! Softmax in fp64.

use super::Softmax;
use crate::error::Result;
use crate::op::functions::exp;
use crate::op::{Arguments, Fp64Kernel};
use rayon::prelude::*;

impl Fp64Kernel for Softmax {
    /// Sums are in ascending order.
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let (scores, scale) = (arguments.input::<f64>(0)?, f64::from(self.scale));
        let keys = arguments.inputs[0].row_len();
        let mut out = vec![0.0; scores.len()];
        if out.is_empty() {
            return Ok(out);
        }
        out.par_chunks_mut(keys)
            .zip(scores.par_chunks(keys))
            .enumerate()
            .for_each(|(index, (out, scores))| {
                let seen = self.mask.seen(index % keys, keys);
                let max = scores[..seen]
                    .iter()
                    .fold(f64::NEG_INFINITY, |max, score| max.max(scale * score));
                let mut sum = 0.0;
                for (out, score) in out.iter_mut().zip(&scores[..seen]) {
                    *out = exp(scale * score - max);
                    sum += *out;
                }
                for out in &mut out[..seen] {
                    *out /= sum;
                }
            });
        Ok(out)
    }
}
