//! Rotary position embeddings in fp64.

use super::Rotary;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for Rotary {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let x = arguments.inputs[0];
        let (positions, head_dim) = (x.shape()[2], x.shape()[3]);
        let mut out = x.as_slice::<f64>()?.to_vec();
        for (row, out) in out.chunks_mut(head_dim.max(1)).enumerate() {
            for pair in 0..self.dims / 2 {
                let angle = self.angle(row % positions, pair);
                let (sin, cos) = (libm::sin(angle), libm::cos(angle));
                let [first, second] = self.pair(pair);
                let [a, b] = [out[first], out[second]];
                out[first] = a * cos - b * sin;
                out[second] = b * cos + a * sin;
            }
        }
        Ok(out)
    }
}
