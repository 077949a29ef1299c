//! Gated layers on the CPU.

use super::Gate;
use crate::error::Result;
use crate::op::element::zip;
use crate::op::formula::Formula;
use crate::op::{Arguments, CpuKernel, Numerics, Rounding};
use crate::tensor::Float;

impl CpuKernel for Gate {
    fn cpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    /// In fp32, rounded once; or the activation rounded, then the product.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>> {
        let [gate, up] = [arguments.input::<T>(0)?, arguments.input(1)?];
        Ok(zip(gate, up, |gate, up| {
            let activated = self.activation.evaluate(gate);
            let activated = match rounding {
                Rounding::Once => activated,
                Rounding::EachOperation => T::from_f32(activated).to_f32(),
            };
            activated * up
        }))
    }
}
