//! By what a router weights the experts that it chose.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, RouterScores};
use serde::Serialize;
use std::fmt;

/// logits `[b, s, e]`, choice `[b, s, k]` → `[b, s, k]`: the scores of the chosen experts, divided by their sum if
/// they are `normalized`, times `scaling`. Everything in fp32, one rounding to the type of the result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RouterWeights {
    /// What is made of the logits.
    pub scores: RouterScores,
    /// Whether the softmax is of the chosen ones' logits alone, which normalizes them: megatron-core's.
    pub of_chosen: bool,
    /// Whether they are divided by their sum.
    pub normalized: bool,
    /// What the sum is at least off 0 by, where they are.
    pub epsilon: f32,
    /// By what they are multiplied at last.
    pub scaling: f32,
}

impl Operation for RouterWeights {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([[rows @ .., experts], choice @ [tokens @ .., chosen]], []) => {
                (rows == tokens && chosen <= experts).then(|| choice.to_vec())
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
        // A softmax of the chosen is one of all, normalized.
        let normalized = self.normalized || self.of_chosen;
        format!("weights {} {normalized} {};", self.scores, self.scaling)
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for RouterWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of ", self.scores)?;
        f.write_str(if self.of_chosen { "the chosen" } else { "all" })?;
        if self.normalized && !self.of_chosen {
            f.write_str(", normalized")?;
        }
        match self.scaling {
            1.0 => Ok(()),
            scaling => write!(f, ", times {scaling}"),
        }
    }
}
