//! Norms in fp64.

use super::Norm;
use crate::error::Result;
use crate::op::Arguments;
use rayon::prelude::*;

impl Norm {
    /// Sums are in ascending order.
    pub(in crate::op) fn fp64(self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let (x, weight) = (arguments.input::<f64>(0)?, arguments.param::<f64>(0)?);
        let bias = arguments.optional_param::<f64>(1)?;
        let count = weight.len() as f64;
        let mut out = vec![0.0; x.len()];
        if out.is_empty() {
            return Ok(out);
        }
        out.par_chunks_mut(weight.len())
            .zip(x.par_chunks(weight.len()))
            .for_each(|(out, x)| {
                let mean = if self.centred {
                    x.iter().sum::<f64>() / count
                } else {
                    0.0
                };
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                let scale = 1.0 / (variance + self.eps).sqrt();
                for (index, (out, x)) in out.iter_mut().zip(x).enumerate() {
                    let shift = bias.map_or(0.0, |bias| bias[index]);
                    *out = (x - mean) * scale * weight[index] + shift;
                }
            });
        Ok(out)
    }
}
