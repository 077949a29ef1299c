//! Softmax over the keys that a query sees.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, leading_digits};
use serde::Serialize;
use std::fmt;

/// scores `[b, n, s, s]` → `[b, n, s, s]`: softmax over the last axis of `scale · scores` with
/// the masked ones left out; their probability is exactly 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Softmax {
    /// Factor of the scores.
    pub scale: f32,
    /// Which scores take part.
    pub mask: Mask,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Those at its own position and before.
    Causal,
    /// Those at its own position plus this and before, and the first one always.
    Shifted(i32),
    /// All.
    Full,
}

impl Mask {
    /// How many keys, from the first on, the query at a position sees of `keys`.
    pub fn seen(self, position: usize, keys: usize) -> usize {
        let shift = match self {
            Self::Causal => 0,
            Self::Shifted(shift) => shift as isize,
            Self::Full => return keys,
        };
        position
            .saturating_add_signed(shift)
            .saturating_add(1)
            .min(keys)
            .max(usize::from(keys > 0))
    }
}

impl Operation for Softmax {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([scores @ [_, _, queries, keys]], []) => (queries == keys).then(|| scores.to_vec()),
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Head
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, divided_by: DividedBy) -> String {
        let scale = leading_digits(self.scale / divided_by.input);
        format!("softmax {scale} {:?};", self.mask)
    }

    fn on_cuda(&self, numerics: Numerics, kernels: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics.on_cuda(kernels.summation))
    }
}

impl fmt::Display for Softmax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scale {
            1.0 => f.write_str("softmax")?,
            scale => write!(f, "softmax of {scale}·scores")?,
        }
        match self.mask {
            Mask::Causal => Ok(()),
            Mask::Shifted(shift) => write!(f, ", mask shifted by {shift}"),
            Mask::Full => f.write_str(", no mask"),
        }
    }
}
