//! Gated layers.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{Activation, CudaKernels, DividedBy, Locality, Numerics, Op, Operation, elementwise};
use serde::Serialize;
use std::fmt;

/// gate, up → same shape: `activation(gate) · up`. The activation counts as one operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// What is done to the gate.
    pub activation: Activation,
}

impl Operation for Gate {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        elementwise::<2>(inputs, params)
    }

    fn locality(&self) -> Locality {
        Locality::Element
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, _: DividedBy) -> String {
        format!("{self:?};")
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} gate", self.activation)
    }
}
