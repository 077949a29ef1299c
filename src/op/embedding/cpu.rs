//! Embedding lookup on the CPU.

use super::{Embedding, lookup};
use crate::error::Result;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;

impl CpuKernel for Embedding {
    /// In any: nothing is computed.
    fn cpu_implements(&self, _: Numerics) -> bool {
        true
    }

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        let weight = arguments.params[0];
        lookup(arguments.inputs[0], arguments.param(0)?, weight.shape())
    }
}
