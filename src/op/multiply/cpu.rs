//! Products on the CPU.

use super::Multiply;
use crate::error::Result;
use crate::op::element::zip;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;

impl CpuKernel for Multiply {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, _: Rounding) -> Result<Vec<T>> {
        let [a, b] = [arguments.input::<T>(0)?, arguments.input(1)?];
        Ok(zip(a, b, |a, b| a * b))
    }
}
