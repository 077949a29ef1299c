//! Biases that are added by a step of their own.

mod cuda;

use super::{Locality, Operation};
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
}

impl fmt::Display for AddBias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("+ bias")
    }
}
