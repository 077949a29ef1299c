//! Embedding lookup.

use super::run::token_ids;
use crate::error::{Error, Result};
use crate::tensor::{Float, Tensor};

/// Rows of `weight` `[v, h]` by token id; copied, so exact.
pub(super) fn gather<T: Float>(tokens: &Tensor, weight: &Tensor) -> Result<Vec<T>> {
    let hidden = weight.row_len();
    let rows = weight.as_slice::<T>()?;
    let mut out = Vec::with_capacity(tokens.len() * hidden);
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
