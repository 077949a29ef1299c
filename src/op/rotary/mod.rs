//! Rotary position embeddings (Su et al. 2021, "RoFormer").

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::Serialize;
use std::fmt;

/// x `[b, n, s, d]`, cosines and sines `[b, s, dims]` ([`RotaryTable`](super::RotaryTable)) → shape of
/// x: the entries `a` and `b` of a pair become `a·cos − b·sin` and `b·cos + a·sin`; the entries after
/// the pairs are copied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rotary {
    /// How many of a head's entries, from the first on, are rotated; even.
    pub dims: usize,
    /// Which entries make a pair.
    pub pairs: RotaryPairs,
}

/// Which entries of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryPairs {
    /// `i` and `i + dims / 2`, as GPT-NeoX and Llama in transformers have them.
    Halves,
    /// `2i` and `2i + 1`, as GPT-J and the original Llama have them.
    Interleaved,
}

impl Rotary {
    /// The places of a pair within a head.
    pub fn pair(&self, pair: usize) -> [usize; 2] {
        match self.pairs {
            RotaryPairs::Halves => [pair, pair + self.dims / 2],
            RotaryPairs::Interleaved => [2 * pair, 2 * pair + 1],
        }
    }

    /// The columns of cosines and sines that rotate a pair.
    fn columns(&self, pair: usize) -> [usize; 2] {
        [pair, pair + self.dims / 2]
    }
}

impl Operation for Rotary {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([x @ [b, _, s, d], cos, sin], []) => {
                let pairs = self.dims.is_multiple_of(2) && self.dims <= *d;
                let table: &[usize] = &[*b, *s, self.dims];
                (pairs && *cos == table && *sin == table).then(|| x.to_vec())
            }
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Head
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

impl fmt::Display for Rotary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rotation of {} entries", self.dims)?;
        match self.pairs {
            RotaryPairs::Halves => Ok(()),
            RotaryPairs::Interleaved => f.write_str(", interleaved"),
        }
    }
}
