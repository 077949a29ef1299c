//! Cosines and sines on the CPU.

use super::RotaryTable;
use crate::error::Result;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;

impl CpuKernel for RotaryTable {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, Rounding::Once)
    }

    /// Functions are evaluated in fp64 by a software library, the same on every machine, and rounded to
    /// fp32; the product with the attention factor is fp32, and rounded once.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        let (frequencies, positions) = self.read(arguments.inputs[0])?;
        let factor = self.factor();
        let mut out = Vec::with_capacity(positions.len() * self.frequencies.dims);
        for position in positions {
            let pair = |frequency: &f32| {
                let angle = position * frequency;
                let value = self.function.of(angle.into()) as f32;
                T::from_f32(value * factor)
            };
            let pairs: Vec<T> = frequencies.iter().map(pair).collect();
            out.extend_from_slice(&pairs);
            out.extend_from_slice(&pairs);
        }
        Ok(out)
    }
}
