//! Embedding lookup.

mod bound;
mod cpu;
mod cuda;
mod fp64;

use super::{CudaKernels, DividedBy, Locality, Numerics, Op, Operation, extended, integers};
use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor};
use serde::Serialize;
use std::fmt;

/// ids `[b, s]` of tokens or positions, weight `[v, h]` → `[b, s, h]`: rows of the weight, copied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Embedding;

impl Operation for Embedding {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([tokens @ [_, _]], [[_, hidden]]) => Some(extended(tokens, *hidden)),
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Row
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

impl fmt::Display for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("embedding")
    }
}

/// Rows of a weight of this shape, `[v, h]`, by token id; copied, so exact.
fn lookup<T: Element>(tokens: &Tensor, rows: &[T], shape: &[usize]) -> Result<Vec<T>> {
    let hidden = shape.last().copied().unwrap_or(1);
    let mut out: Vec<T> = Vec::with_capacity(tokens.len() * hidden);
    for id in integers(tokens)? {
        let row = usize::try_from(id)
            .ok()
            .and_then(|row| rows.get(row.checked_mul(hidden)?..(row + 1).checked_mul(hidden)?));
        match row {
            Some(row) => out.extend_from_slice(row),
            None => {
                return Err(Error::Mismatch {
                    at: "tokens".into(),
                    expected: format!("token ids below {}", shape[0]),
                    found: id.to_string(),
                });
            }
        }
    }
    Ok(out)
}
