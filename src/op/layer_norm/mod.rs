//! LayerNorm (Ba et al. 2016).

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::norm::Norm;
use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::Serialize;
use std::fmt;

/// x `[…, h]`, weight `[h]`, bias `[h]` → `[…, h]`:
/// `(x − mean) / sqrt(var + eps) · weight + bias`, with the biased variance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    fn norm(self) -> Norm {
        Norm {
            eps: self.eps,
            centred: true,
        }
    }
}

impl Operation for LayerNorm {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([x @ [.., last]], [[weight], [bias]]) => {
                (last == weight && last == bias).then(|| x.to_vec())
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
        format!("{self:?};")
    }

    fn on_cuda(&self, numerics: Numerics, kernels: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics.on_cuda(kernels.summation))
    }
}

impl fmt::Display for LayerNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer norm (eps {:e})", self.eps)
    }
}
