//! Products with a weight.

mod bound;
mod cpu;
mod cuda;
mod fp64;
mod partials;

pub(super) use cpu::each_sum;
pub use partials::{AllReduce, Partials};

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, extended};
use crate::error::Result;
use crate::tensor::{Float, Tensor, with_float};
use serde::Serialize;
use std::fmt;

/// x `[…, k]`, weight `[m, k]`, bias `[m]` if there is one → `[…, m]`: `x · weightᵀ + bias`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Linear {
    /// Whether the bias is added to the sum before it is rounded.
    pub bias: bool,
    /// Into how many equal ranges the sum over `k` is split, and how their sums are added. The
    /// flattened tensor that rings cut into chunks is `[s, b, m]` of an x `[b, s, k]`, as Megatron
    /// lays hidden states out.
    pub partials: Partials,
}

impl Linear {
    /// How many elements of a recorded result no order of the ranks' rounded sums gives, for x and weight
    /// as the operation takes them; of a sample, scaled up, if there are many. `None` if there are too
    /// many orders.
    ///
    /// # Errors
    /// If the types of the arrays differ.
    pub(crate) fn in_no_order(
        &self,
        x: &Tensor,
        weight: &Tensor,
        recorded: &Tensor,
    ) -> Result<Option<usize>> {
        const SAMPLE: usize = 1 << 12;
        let k = x.row_len();
        let step = recorded.len().div_ceil(SAMPLE).max(1);
        with_float!(recorded.dtype(), T => {
            let values = recorded.as_slice::<T>()?;
            let width = recorded.row_len();
            let (x, weight) = (x.as_slice::<T>()?, weight.as_slice::<T>()?);
            let missed = cpu::each_sum(x, weight, k, self.partials.count, None, |row, column, parts| {
                let place = row * width + column;
                if !place.is_multiple_of(step) {
                    return Some(false);
                }
                self.partials.any_gives::<T>(parts, values[place].to_f32()).map(|given| !given)
            });
            let missed: Option<Vec<bool>> = missed.into_iter().collect();
            Ok(missed.map(|missed| missed.into_iter().filter(|missed| *missed).count() * step))
        }, else Ok(None))
    }
}

impl Operation for Linear {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([[rows @ .., k]], [[m, from], biases @ ..]) => {
                let biased = match biases {
                    [] => !self.bias,
                    [[width]] => self.bias && width == m,
                    _ => false,
                };
                let count = self.partials.count;
                let split = count > 0 && k % count == 0;
                (biased && split && k == from).then(|| extended(rows, *m))
            }
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        match self.partials {
            // Where an element lies decides which rank is last.
            Partials {
                order: AllReduce::GlooRing | AllReduce::NcclRing,
                ..
            } if self.partials.has_order() => Locality::Sequence,
            _ => Locality::Row,
        }
    }

    fn reads_tokens(&self) -> bool {
        false
    }

    fn formula(&self, _: DividedBy) -> String {
        let bias = if self.bias { "bias;" } else { "" };
        format!("product;{bias}")
    }

    fn on_cuda(&self, numerics: Numerics, _: CudaKernels) -> (Op, Numerics) {
        ((*self).into(), numerics)
    }
}

impl fmt::Display for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.bias {
            "product + bias"
        } else {
            "product"
        })?;
        match self.partials {
            Partials { count: 1, .. } => Ok(()),
            partials @ Partials { count, order } if partials.has_order() && !order.is_default() => {
                write!(f, " in {count} rounded partial sums, added by {order}")
            }
            Partials { count, .. } => write!(f, " in {count} rounded partial sums"),
        }
    }
}
