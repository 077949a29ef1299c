//! Embedding lookup.

use crate::error::{Error, Result};
use crate::tensor::{DType, Element, Tensor};

/// Rows of `weight` `[v, h]` by token id; copied, so exact.
pub(crate) fn gather<T: Element>(tokens: &Tensor, weight: &Tensor) -> Result<Vec<T>> {
    let hidden = weight.row_len();
    let rows = weight.as_slice::<T>()?;
    let mut out: Vec<T> = Vec::with_capacity(tokens.len() * hidden);
    for id in token_ids(tokens)? {
        let row = usize::try_from(id)
            .ok()
            .and_then(|row| rows.get(row.checked_mul(hidden)?..(row + 1).checked_mul(hidden)?));
        match row {
            Some(row) => out.extend_from_slice(row),
            None => {
                return Err(Error::Mismatch {
                    at: "tokens".into(),
                    expected: format!("token ids below {}", weight.shape()[0]),
                    found: id.to_string(),
                });
            }
        }
    }
    Ok(out)
}

/// Token ids as row numbers: `int64` or `int32`.
fn token_ids(tokens: &Tensor) -> Result<Vec<i64>> {
    match tokens.dtype() {
        DType::I32 => Ok(tokens
            .as_slice::<i32>()?
            .iter()
            .map(|id| i64::from(*id))
            .collect()),
        _ => Ok(tokens.as_slice::<i64>()?.to_vec()),
    }
}
