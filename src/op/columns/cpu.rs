//! Columns on the CPU.

use super::Columns;
use crate::error::Result;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;

impl CpuKernel for Columns {
    /// In any: nothing is computed.
    fn cpu_implements(&self, _: Numerics) -> bool {
        true
    }

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        Ok(self.taken(arguments.input::<T>(0)?, arguments.inputs[0].shape()))
    }
}
