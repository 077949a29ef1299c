//! Products with a weight.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, extended};
use serde::Serialize;
use std::fmt;

/// x `[…, k]`, weight `[m, k]`, bias `[m]` if there is one → `[…, m]`: `x · weightᵀ + bias`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Linear {
    /// Whether the bias is added to the sum before it is rounded.
    pub bias: bool,
    /// Into how many equal ranges the sum over `k` is split, each rounded for itself and then
    /// added in order with a rounding each: what a row-parallel layer does over this many
    /// tensor-parallel ranks. 1: one sum.
    pub partials: usize,
}

impl Operation for Linear {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([[rows @ .., k]], [[m, from], biases @ ..]) => {
                let biased = match biases {
                    [] => !self.bias,
                    [[width]] => self.bias && width == m,
                    _ => false,
                };
                let split = self.partials > 0 && k % self.partials == 0;
                (biased && split && k == from).then(|| extended(rows, *m))
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
        let bias = if self.bias { "bias;" } else { "" };
        format!("product;{bias}")
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.bias {
            "product + bias"
        } else {
            "product"
        })?;
        match self.partials {
            1 => Ok(()),
            n => write!(f, " in {n} rounded partial sums"),
        }
    }
}
