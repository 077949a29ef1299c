//! LayerNorm on the CPU.

use super::LayerNorm;
use crate::error::Result;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;

impl CpuKernel for LayerNorm {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::norm(numerics.out)
    }

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>> {
        self.norm().cpu(arguments, rounding)
    }
}
