//! Values weighted by probabilities.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::Serialize;
use std::fmt;

/// probabilities `[b, n, s, s]`, value `[b, g, s, d]` → `[b, s, n·d]`: `probs · value`, heads side by
/// side. Each of the `g` values is for `n / g` heads in a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Context;

impl Operation for Context {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([[b, n, s, keys], [vb, g, vs, d]], []) => {
                let same = (b, s, keys) == (vb, vs, s) && *g > 0 && n.is_multiple_of(*g);
                same.then(|| vec![*b, *s, n * d])
            }
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Sequence
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

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("probs·value")
    }
}
