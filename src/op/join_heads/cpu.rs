//! Heads of two parts on the CPU.

use super::JoinHeads;
use crate::error::Result;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;

impl CpuKernel for JoinHeads {
    /// In any: nothing is computed.
    fn cpu_implements(&self, _: Numerics) -> bool {
        true
    }

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        let shapes = [0, 1].map(|input| arguments.inputs[input].shape());
        let [a, b] = [arguments.input::<T>(0)?, arguments.input(1)?];
        Ok(Self::joined([a, b], shapes))
    }
}
