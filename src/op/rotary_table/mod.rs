//! Cosines and sines of rotary position embeddings.

mod bound;
mod cpu;
mod cuda;
mod fp64;
mod frequencies;

pub use frequencies::{Frequencies, RopeScaling};

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, extended};
use crate::error::Result;
use crate::tensor::Tensor;
use serde::Serialize;
use std::fmt;

/// positions `[b, s]` → `[b, s, dims]`: the cosine or sine of every pair's angle, for the first entries
/// of the pairs and then, the same, for the second. The angle is an fp32 product, and so is that with
/// the scaling's attention factor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RotaryTable {
    /// Which of the two.
    pub function: RotaryFunction,
    /// By which angles pairs are rotated.
    pub frequencies: Frequencies,
    /// What is added to positions.
    pub offset: i32,
}

/// A function of an angle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryFunction {
    /// The cosine.
    Cos,
    /// The sine.
    Sin,
}

impl RotaryTable {
    /// The frequency of every pair, and the positions as numbers.
    fn read(&self, positions: &Tensor) -> Result<(Vec<f32>, Vec<f32>)> {
        let ids = super::integers(positions)?;
        let moved = ids.into_iter().map(|id| id + i64::from(self.offset));
        let moved: Vec<i64> = moved.collect();
        let last = moved.iter().copied().max().unwrap_or(0);
        let sequence = usize::try_from(last).unwrap_or(0) + 1;
        let positions = moved.iter().map(|position| *position as f32);
        Ok((self.frequencies.of(sequence), positions.collect()))
    }

    fn factor(&self) -> f32 {
        self.frequencies.scaling.attention_factor()
    }
}

impl RotaryFunction {
    fn of(self, angle: f64) -> f64 {
        match self {
            Self::Cos => libm::cos(angle),
            Self::Sin => libm::sin(angle),
        }
    }

    /// The magnitude of the function's slope.
    fn slope(self, angle: f64) -> f64 {
        match self {
            Self::Cos => libm::sin(angle).abs(),
            Self::Sin => libm::cos(angle).abs(),
        }
    }
}

impl Operation for RotaryTable {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([positions @ [_, _]], []) => {
                let dims = self.frequencies.dims;
                dims.is_multiple_of(2).then(|| extended(positions, dims))
            }
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        match self.frequencies.scaling {
            // The longest position decides.
            RopeScaling::Dynamic { .. } => Locality::Sequence,
            _ => Locality::Row,
        }
    }

    fn reads_tokens(&self) -> bool {
        true
    }

    fn formula(&self, _: DividedBy) -> String {
        format!("{self:?};")
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for RotaryTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let function = match self.function {
            RotaryFunction::Cos => "cosines",
            RotaryFunction::Sin => "sines",
        };
        write!(f, "rotary {function} ({}", self.frequencies)?;
        match self.offset {
            0 => f.write_str(")"),
            offset => write!(f, ", positions {offset:+})"),
        }
    }
}
