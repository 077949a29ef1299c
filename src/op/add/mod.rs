//! Sums of two values.

mod bound;
mod cpu;
mod cuda;
mod fp64;

pub(super) use cuda::add;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, elementwise};
use serde::Serialize;
use std::fmt;

/// a, b → same shape: `a + b`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Add;

impl Operation for Add {
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

impl fmt::Display for Add {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("add")
    }
}
