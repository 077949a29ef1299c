//! Heads out of a fused projection.

mod bound;
mod cpu;
mod cuda;
mod fp64;

pub(crate) use cuda::{copied, repeated};

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use crate::tensor::Element;
use ndarray::{ArrayViewD, Axis};
use serde::Serialize;
use std::fmt;

/// fused `[b, s, 3·n·d]` (or `[b, s, n·d]`) → `[b, n, s, d]`: the queries, keys or values of every head,
/// copied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SplitHeads {
    /// Which of the three.
    pub part: HeadPart,
    /// How the fused axis is ordered.
    pub layout: QkvLayout,
    /// The number of heads `n`.
    pub heads: usize,
    /// On a GPU, whether a key-value cache copies the result, as transformers' does unless a
    /// forward says otherwise. Else the heads of one sequence stay where the projection has them,
    /// which libraries see in the distance of their rows. The values are the same.
    pub cached: bool,
}

/// Which of the fused projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadPart {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
}

/// How the rows of a fused query-key-value projection are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QkvLayout {
    /// `[heads, 3, d]`: the three parts of a head lie side by side, as in BLOOM.
    PerHead,
    /// `[3, heads, d]`: the heads of a part lie side by side, as in GPT-2.
    PerPart,
    /// `[heads, d]`: every part has a projection of its own, as in Llama.
    Separate,
}

impl QkvLayout {
    /// How many parts the fused axis has.
    pub(crate) fn parts(self) -> usize {
        match self {
            Self::PerHead | Self::PerPart => 3,
            Self::Separate => 1,
        }
    }
}

impl SplitHeads {
    /// The part of every head, copied.
    fn split<T: Element>(&self, fused: ArrayViewD<'_, T>) -> Vec<T> {
        let (batch, positions) = (fused.shape()[0], fused.shape()[1]);
        let heads = self.heads;
        let head_dim = fused.shape()[2] / (self.layout.parts() * heads);
        let (axes, part) = match self.layout {
            QkvLayout::PerHead => (
                [batch, positions, heads, 3, head_dim],
                (3, self.part as usize),
            ),
            QkvLayout::PerPart => (
                [batch, positions, 3, heads, head_dim],
                (2, self.part as usize),
            ),
            QkvLayout::Separate => ([batch, positions, 1, heads, head_dim], (2, 0)),
        };
        let split = fused.into_shape_with_order(axes);
        let split = split.expect("the step's shape was checked");
        let part = split.index_axis_move(Axis(part.0), part.1);
        part.permuted_axes([0, 2, 1, 3]).iter().copied().collect()
    }
}

impl Operation for SplitHeads {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([[batch, positions, fused]], []) => {
                let parts = self.layout.parts() * self.heads;
                let whole = parts > 0 && fused % parts == 0;
                whole.then(|| vec![*batch, self.heads, *positions, fused / parts])
            }
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Copy
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, _: DividedBy) -> String {
        format!("{self:?};")
    }

    fn on_cuda(&self, numerics: Numerics, kernels: CudaKernels) -> (Op, Numerics) {
        let cached = kernels.use_cache && self.part != HeadPart::Query;
        (Self { cached, ..*self }.into(), numerics)
    }
}

impl fmt::Display for SplitHeads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} heads", self.part)
    }
}
