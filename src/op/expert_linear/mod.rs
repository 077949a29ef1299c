//! Products with the weights of the experts that were chosen.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use serde::Serialize;
use std::fmt;

/// x `[b, s, w]`, choice `[b, s, k]`, a weight `[m, w]` an expert → `[b, s, k·m]`: for every expert that was chosen
/// for a token, in the order of the choice, `x · weightᵀ`. An x that has a row for every choice is `[b, s, k·w]`.
///
/// With several `parts` the sum over `w` is split into so many equal ranges, whose sums are results of their own:
/// `[b, s, parts·k·m]`, all choices of the first part first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExpertLinear {
    /// Whether x has a row for every choice.
    pub of_choices: bool,
    /// Into how many equal ranges the sum is split: ranks that share every expert.
    pub parts: usize,
}

impl Operation for ExpertLinear {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        let ([[rows @ .., width], [tokens @ .., chosen]], [first @ [m, from], rest @ ..]) =
            (inputs, params)
        else {
            return None;
        };
        let width = if self.of_choices {
            (*chosen > 0 && width.is_multiple_of(*chosen)).then(|| width / chosen)?
        } else {
            *width
        };
        let split = self.parts > 0 && width.is_multiple_of(self.parts);
        let alike = rest.iter().all(|other| other == first);
        let fits = rows == tokens && *from == width && split && alike;
        fits.then(|| super::extended(rows, self.parts * chosen * m))
    }

    fn locality(&self) -> Locality {
        Locality::Row
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, _: DividedBy) -> String {
        "product of experts;".into()
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for ExpertLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("product of experts")?;
        match self.parts {
            1 => Ok(()),
            parts => write!(f, " in {parts} partial sums"),
        }
    }
}

/// The sizes of a product with experts' weights.
#[derive(Clone, Copy)]
struct Sizes {
    /// Choices a token.
    chosen: usize,
    /// Columns of a row of x.
    width: usize,
    /// Rows of a weight.
    out: usize,
    /// Whether x has a row for every choice.
    of_choices: bool,
}

impl ExpertLinear {
    /// Of arguments whose shapes were checked.
    fn sizes(self, choice: &[usize], weight: &[usize]) -> Sizes {
        Sizes {
            chosen: choice.last().copied().unwrap_or(0),
            width: weight[1],
            out: weight[0],
            of_choices: self.of_choices,
        }
    }
}

impl Sizes {
    /// The row of x that a place in the choice reads.
    fn row(self, place: usize) -> usize {
        match self.of_choices {
            true => place,
            false => place / self.chosen,
        }
    }

    /// Where the result for a place begins, in a part of so many.
    fn result(self, place: usize, part: usize, parts: usize) -> usize {
        let (token, choice) = (place / self.chosen, place % self.chosen);
        ((token * parts + part) * self.chosen + choice) * self.out
    }
}
