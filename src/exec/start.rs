//! What plans start from.

use crate::error::Result;
use crate::plan::StageId;
use crate::tensor::Tensor;

/// The values that a plan starts from: the tokens `[batch, positions]`, and their positions, which
/// count from 0 in every sequence if none are given.
///
/// # Errors
/// None for tokens of two axes.
pub fn start(tokens: &Tensor, positions: Option<Tensor>) -> Result<[(StageId, Tensor); 2]> {
    let row = tokens.row_len().max(1);
    let counted = || {
        let positions = (0..tokens.len()).map(|index| (index % row) as i64);
        Tensor::from_vec(tokens.shape(), positions.collect())
    };
    let positions = positions.map_or_else(counted, Ok)?;
    Ok([
        (StageId::TOKENS.into(), tokens.clone()),
        (StageId::POSITIONS.into(), positions),
    ])
}
