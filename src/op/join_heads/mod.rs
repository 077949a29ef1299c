//! Heads of two parts.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use crate::tensor::Element;
use serde::Serialize;
use std::fmt;

/// a `[b, n, s, d]`, b `[b, n, s, e]` or `[b, 1, s, e]` → `[b, n, s, d + e]`: the entries of both, copied; one head of b is
/// every head's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct JoinHeads;

impl JoinHeads {
    /// The entries of both, copied.
    fn joined<T: Element>([a, b]: [&[T]; 2], [of_a, of_b]: [&[usize]; 2]) -> Vec<T> {
        let (&[batch, heads, positions, first], &[_, others, _, second]) = (of_a, of_b) else {
            unreachable!("the step's shape was checked");
        };
        let mut out = Vec::with_capacity(batch * heads * positions * (first + second));
        for row in 0..batch * heads * positions {
            let (matrix, position) = (row / positions, row % positions);
            let (sequence, head) = (matrix / heads, matrix % heads);
            let other = (sequence * others + head.min(others - 1)) * positions + position;
            out.extend_from_slice(&a[row * first..(row + 1) * first]);
            out.extend_from_slice(&b[other * second..(other + 1) * second]);
        }
        out
    }
}

impl Operation for JoinHeads {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([[b, n, s, d], [other_b, heads, other_s, e]], []) => {
                let same = (b, s) == (other_b, other_s) && (heads == n || *heads == 1);
                same.then(|| vec![*b, *n, *s, d + e])
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

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for JoinHeads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("heads of both")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_head_is_every_heads() {
        let (a, b) = ([1.0_f32, 2.0, 3.0, 4.0], [7.0, 8.0]);
        let joined = JoinHeads::joined([&a, &b], [&[1, 2, 2, 1], &[1, 1, 2, 1]]);
        assert_eq!(joined, [1.0, 7.0, 2.0, 8.0, 3.0, 7.0, 4.0, 8.0]);
    }
}
