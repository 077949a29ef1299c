//! Rotary position embeddings in fp64.

use super::Rotary;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for Rotary {
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let &[_, heads, positions, head_dim] = arguments.inputs[0].shape() else {
            unreachable!("the step's shape was checked");
        };
        let mut out = arguments.input::<f64>(0)?.to_vec();
        let [cos, sin] = [arguments.input::<f64>(1)?, arguments.input(2)?];
        for (row, out) in out.chunks_mut(head_dim.max(1)).enumerate() {
            let token = row / (heads * positions) * positions + row % positions;
            for pair in 0..self.dims / 2 {
                let [first, second] = self.pair(pair);
                let [a, b] = [out[first], out[second]];
                let [one, other] = self.columns(pair).map(|column| token * self.dims + column);
                out[first] = a * cos[one] - b * sin[one];
                out[second] = b * cos[other] + a * sin[other];
            }
        }
        Ok(out)
    }
}
