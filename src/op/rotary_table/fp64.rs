//! Cosines and sines in fp64.

use super::RotaryTable;
use crate::error::Result;
use crate::op::{Arguments, Fp64Kernel};

impl Fp64Kernel for RotaryTable {
    /// Of the frequencies that frameworks have, which are fp32; the angle is not rounded.
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>> {
        let (frequencies, positions) = self.read(arguments.inputs[0])?;
        let factor = f64::from(self.factor());
        let mut out = Vec::with_capacity(positions.len() * self.frequencies.dims);
        for position in positions {
            let angle = |frequency: &f32| f64::from(position) * f64::from(*frequency);
            let pairs = frequencies.iter().map(angle);
            let pairs: Vec<f64> = pairs.map(|x| factor * self.function.of(x)).collect();
            out.extend_from_slice(&pairs);
            out.extend_from_slice(&pairs);
        }
        Ok(out)
    }
}
