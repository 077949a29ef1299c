//! RMSNorm on the CPU.

use super::RmsNorm;
use crate::error::Result;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;

impl CpuKernel for RmsNorm {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::norm(numerics.out).with_rounding(numerics.rounding)
    }

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>> {
        self.norm().cpu(arguments, rounding)
    }
}
