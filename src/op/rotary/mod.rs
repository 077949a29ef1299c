//! Rotary position embeddings (Su et al. 2021, "RoFormer").

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::Serialize;
use std::fmt;

/// x `[b, n, s, d]` → same shape: pairs of a head's entries rotated by an angle that grows with the
/// position; the entries after them copied.
///
/// By how much the pairs of a head's entries are rotated: pair `i` at position `p` by
/// `(p + offset) / scaling · theta^(−2i / dims)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f64,
    /// What positions are divided by (linear scaling).
    pub scaling: f64,
    /// What is added to positions.
    pub offset: i32,
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

    /// The angle of a pair at a position.
    pub fn angle(&self, position: usize, pair: usize) -> f64 {
        let position = position as f64 + f64::from(self.offset);
        position / self.scaling * self.frequency(pair)
    }

    /// The angle as frameworks compute it, operation by operation in fp32:
    /// `position / scaling · (1 / theta^(2i / dims))`; the power itself in fp64 and rounded.
    pub fn angle_f32(&self, position: usize, pair: usize) -> f32 {
        let position = (position as f64 + f64::from(self.offset)) as f32;
        let exponent = (2 * pair) as f32 / self.dims.max(1) as f32;
        let power = libm::pow(self.theta, exponent.into()) as f32;
        position / self.scaling as f32 * (1.0 / power)
    }

    /// How far an fp32 angle may be off, relative to itself, in unit roundoffs: the exponent's
    /// rounding times `ln theta`, and one each for the power, the quotients and the product.
    pub fn angle_error(&self, pair: usize) -> f64 {
        let exponent = 2.0 * pair as f64 / self.dims.max(1) as f64;
        exponent * self.theta.ln().abs() + 4.0
    }

    fn frequency(&self, pair: usize) -> f64 {
        let exponent = 2.0 * pair as f64 / self.dims.max(1) as f64;
        libm::pow(self.theta, -exponent)
    }
}

impl Operation for Rotary {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([x @ [_, _, _, d]], []) => {
                let pairs = self.dims.is_multiple_of(2) && self.dims <= *d;
                pairs.then(|| x.to_vec())
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
        write!(f, "rotary (theta {:e})", self.theta)
    }
}
