//! Rows of experts times the router's weights.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::Serialize;
use std::fmt;

/// x `[b, s, k·m]`, weights `[b, s, k]` → `[b, s, k·m]`: every choice's row times its weight. Weights may be of a
/// wider type than x: the product is fp32.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Weigh;

impl Operation for Weigh {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([x @ [rows @ .., width], [tokens @ .., chosen]], []) => {
                let fits = rows == tokens && *chosen > 0 && width.is_multiple_of(*chosen);
                fits.then(|| x.to_vec())
            }
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Row
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, _: DividedBy) -> String {
        "weighted;".into()
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for Weigh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("times the router's weight")
    }
}

/// How many elements have one weight.
fn share(x: &[usize], weights: &[usize]) -> usize {
    let [x, weights] = [x, weights].map(|shape| shape.iter().product::<usize>());
    x.checked_div(weights).unwrap_or(1).max(1)
}
