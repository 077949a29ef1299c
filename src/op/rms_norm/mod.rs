//! RMSNorm (Zhang & Sennrich 2019).

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::norm::Norm;
use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::Serialize;
use std::fmt;

/// x `[…, h]`, weight `[h]`, bias `[h]` if there is one → `[…, h]`:
/// `x / sqrt(mean(x²) + eps) · weight + bias`; nothing is centred.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    fn norm(self) -> Norm {
        Norm {
            eps: self.eps,
            centred: false,
        }
    }
}

impl Operation for RmsNorm {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([x @ [.., last]], [weight, biases @ ..]) => {
                let biased = biases.is_empty() || biases == [*weight];
                (biased && *weight == [*last]).then(|| x.to_vec())
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

impl fmt::Display for RmsNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RMS norm (eps {:e})", self.eps)
    }
}
