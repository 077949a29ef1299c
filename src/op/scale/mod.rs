//! Values times a constant.

mod cuda;

use super::{Locality, Operation};
use serde::Serialize;
use std::fmt;

/// x → same shape: `factor · x`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scale {
    /// What every element is multiplied by.
    pub factor: f32,
}

impl Operation for Scale {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([x], []) => Some(x.to_vec()),
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Element
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}·x", self.factor)
    }
}
