//! The sum of what a token's experts gave.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::Serialize;
use std::fmt;

/// x `[b, s, parts·k·m]`, choice `[b, s, k]` → `[b, s, m]`: the sum over a token's choices, in their order, and over
/// parts.
///
/// Rounded after every addition, or once. Where ranks have parts of every expert, or experts of their own, each
/// rank's sum is rounded before the ranks' are added.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SumExperts {
    /// Ranks that have a part of every expert.
    pub parts: usize,
    /// Ranks that have experts of their own, in ranges of one length.
    pub ranks: usize,
    /// Experts that there are.
    pub experts: usize,
}

impl Operation for SumExperts {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([[rows @ .., width], [tokens @ .., chosen]], []) => {
                let terms = chosen * self.parts;
                let split = self.ranks > 0 && self.experts.is_multiple_of(self.ranks);
                let fits = rows == tokens && split && terms > 0 && width.is_multiple_of(terms);
                fits.then(|| super::extended(rows, width / terms))
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
        "sum of experts;".into()
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for SumExperts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sum of experts")?;
        match self.parts * self.ranks {
            1 => Ok(()),
            ranks => write!(f, " in {ranks} rounded partial sums"),
        }
    }
}

/// The terms of a token's sum.
struct Terms {
    /// Terms that each rank sums, ascending; a rank that has none is left out.
    of_ranks: Vec<Vec<usize>>,
}

impl SumExperts {
    /// The terms of a token, by its choice.
    fn terms(&self, choice: &[usize]) -> Terms {
        let size = (self.experts / self.ranks).max(1);
        let of_parts = (0..self.parts).flat_map(|part| {
            (0..self.ranks).map(move |rank| {
                let own = choice.iter().enumerate();
                let own = own.filter(move |(_, expert)| **expert / size == rank);
                own.map(|(place, _)| part * choice.len() + place)
                    .collect::<Vec<usize>>()
            })
        });
        let of_ranks = of_parts.filter(|terms| !terms.is_empty());
        Terms {
            of_ranks: of_ranks.collect(),
        }
    }
}
