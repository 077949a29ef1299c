//! Some columns of a projection.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation};
use crate::tensor::Element;
use serde::Serialize;
use std::fmt;

/// x `[b, s, w]` → `[b, s, count]`, or x `[b, s, n·w]` → `[b, n, s, count]` of `n` heads: the columns from `from` on, of
/// x or of each head, copied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Columns {
    /// Of how many heads; `None` if x has none.
    pub heads: Option<usize>,
    /// The first column.
    pub from: usize,
    /// How many.
    pub count: usize,
    /// Whether every second one comes first, then the others: pairs of neighbours become pairs of halves.
    pub apart: bool,
}

impl Columns {
    /// The columns of every head, copied.
    fn taken<T: Element>(&self, x: &[T], shape: &[usize]) -> Vec<T> {
        let &[batch, positions, width] = shape else {
            unreachable!("the step's shape was checked");
        };
        let heads = self.heads.unwrap_or(1);
        let of_head = width / heads;
        let mut out = Vec::with_capacity(batch * heads * positions * self.count);
        for row in 0..batch {
            for head in 0..heads {
                for position in 0..positions {
                    let start = (row * positions + position) * width + head * of_head + self.from;
                    let own = &x[start..start + self.count];
                    match self.apart {
                        false => out.extend_from_slice(own),
                        true => {
                            out.extend(own.iter().step_by(2));
                            out.extend(own.iter().skip(1).step_by(2));
                        }
                    }
                }
            }
        }
        out
    }
}

impl Operation for Columns {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        let ([[batch, positions, width]], []) = (inputs, params) else {
            return None;
        };
        let heads = self.heads.unwrap_or(1);
        let end = self.from.checked_add(self.count)?;
        let fits = heads > 0 && width.is_multiple_of(heads) && end <= width / heads;
        let shape = match self.heads {
            Some(heads) => vec![*batch, heads, *positions, self.count],
            None => vec![*batch, *positions, self.count],
        };
        fits.then_some(shape)
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

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "columns {} to {}", self.from, self.from + self.count)?;
        if self.heads.is_some() {
            f.write_str(" of every head")?;
        }
        match self.apart {
            true => f.write_str(", every second first"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_taken_of_every_head() {
        let x: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let columns = Columns {
            heads: Some(2),
            from: 1,
            count: 2,
            apart: false,
        };
        // Two positions of two heads of three columns.
        let taken = columns.taken(&x, &[1, 2, 6]);
        assert_eq!(taken, [1.0, 2.0, 7.0, 8.0, 4.0, 5.0, 10.0, 11.0]);
        let apart = Columns {
            heads: None,
            from: 2,
            count: 4,
            apart: true,
        };
        assert_eq!(apart.taken(&x, &[1, 1, 12]), [2.0, 4.0, 3.0, 5.0]);
    }
}
