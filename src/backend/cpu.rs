//! Steps on this machine's processors.

use super::{Backend, Device};
use crate::error::{Error, Result};
use crate::memory;
use crate::op::Arguments;
use crate::plan::Step;
use crate::tensor::{Tensor, with_float};

/// Bytes that an element takes while it is computed: its fp32 value, and its error bound.
const WORK: usize = 12;

/// The CPU backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Backend for Cpu {
    type Array = Tensor;

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn upload(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    fn download(&self, array: &Tensor) -> Result<Tensor> {
        Ok(array.clone())
    }

    fn run(&self, step: &Step, inputs: &[&Tensor], params: &[&Tensor]) -> Result<Tensor> {
        // A plan is run as it says, or not at all.
        if !step.op.operation().cpu_implements(step.numerics) {
            return Err(unsupported(
                step,
                format!("{} in {:?}", step.op, step.numerics),
            ));
        }
        step.check_params(params.iter().map(|param| param.shape()))?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let shape = step.output_shape(&shapes)?;
        memory::allow(
            step.id.as_str(),
            "its values",
            memory::bytes_of(&shape, step.numerics.out.size() + WORK),
        )?;
        let arguments = Arguments { inputs, params };
        let dtype = step.numerics.out;
        with_float!(dtype, T => {
            let data = step.op.cpu::<T>(&arguments, step.numerics.rounding)?;
            Tensor::from_vec(&shape, data)
        }, else Err(unsupported(step, format!("results stored as {dtype}"))))
    }
}

fn unsupported(step: &Step, what: String) -> Error {
    Error::Unsupported {
        step: step.id.to_string(),
        backend: "cpu",
        what,
    }
}
