//! Values bounded by a hyperbolic tangent.

mod cuda;

use super::{Locality, Operation};
use serde::Serialize;
use std::fmt;

/// x → same shape: `cap · tanh(x / cap)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SoftCap {
    /// The bound that no element exceeds.
    pub cap: f32,
}

impl Operation for SoftCap {
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

impl fmt::Display for SoftCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "soft cap {}", self.cap)
    }
}
