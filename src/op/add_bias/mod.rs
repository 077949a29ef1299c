//! Biases that are added by a step of their own.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::Serialize;
use std::fmt;

/// x `[…, m]`, bias `[m]` → `[…, m]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AddBias;

impl Operation for AddBias {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([x @ [.., last]], [[bias]]) => (last == bias).then(|| x.to_vec()),
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Column
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, _: DividedBy) -> String {
        "bias;".into()
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for AddBias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("+ bias")
    }
}
