//! Proving a converted folder against the shards it was made of.
//!
//! Writing asks, row by row of the result, which tile an element comes from. This goes the other
//! way: it takes every shard's elements in turn and asks where in the result they are, so that a
//! fault in the one is not repeated in the other; and counts, so that nothing of the result is left
//! that no shard accounts for.

use super::converted::ConvertedTensor;
use super::writer::converted;
use crate::checkpoint::{SafetensorsFiles, Weights};
use crate::error::{BadInput, Result};
use crate::tensor::{DType, Tile};
use std::borrow::Cow;
use std::path::Path;

/// Checks every element of `tensors` in the model in `folder`, stored as `dtype`. `on` hears of
/// every tensor, by its bytes.
///
/// # Errors
/// [`BadInput`](crate::Error::BadInput) naming the first element that differs, and if the folder
/// does not hold exactly these tensors.
pub(super) fn verify(
    folder: &Path,
    tensors: &[ConvertedTensor],
    asked: Option<DType>,
    on: &dyn Fn(u64),
) -> Result<()> {
    let files = SafetensorsFiles::open(folder)?;
    let held = files.names().len();
    if held != tensors.len() {
        let expected = format!("{} tensors", tensors.len());
        return Err(BadInput::new(folder, expected, held.to_string()).into());
    }
    for tensor in tensors {
        let written = files.load(&tensor.name)?;
        let dtype = tensor.written_as(asked);
        let fault = |expected: String, found: String| {
            BadInput::new(folder, expected, found).at(&tensor.name)
        };
        if written.dtype() != dtype || written.shape() != tensor.shape {
            let expected = format!("{dtype} of shape {:?}", tensor.shape);
            return Err(fault(expected, format!("{written:?}")).into());
        }
        let mut covered = 0;
        for tile in tensor.elements.tiles() {
            covered += compare(tile, tensor, dtype, written.bytes()).map_err(|index| {
                fault(
                    "the shards' values".into(),
                    format!("another at element {index}"),
                )
            })?;
        }
        let elements = tensor.elements.len();
        if covered != elements {
            let expected = format!("{elements} elements from shards");
            return Err(fault(expected, covered.to_string()).into());
        }
        on(written.bytes().len() as u64);
    }
    Ok(())
}

/// Compares a tile with its place in the result. Returns how many elements that were, or the index
/// of the first that differs.
fn compare(
    tile: &Tile,
    tensor: &ConvertedTensor,
    dtype: DType,
    written: &[u8],
) -> std::result::Result<usize, usize> {
    let grid = tensor.elements.shape();
    let size = tile.part.dtype().size();
    let mut count = 0;
    let mut index = vec![0; grid.len()];
    let extents = tile.part.shape();
    if extents.contains(&0) {
        return Ok(0);
    }
    // Runs along the last axis, in the order of the tile.
    let run = extents.last().copied().unwrap_or(1);
    let mut bytes = vec![0; run * size];
    loop {
        let place = grid
            .iter()
            .zip(&tile.at)
            .zip(&index)
            .fold(0, |place, ((extent, at), index)| {
                place * extent + at + index
            });
        tile.part.read_run(&index, &mut bytes);
        let expected = if tensor.is_copied_as(dtype) {
            Cow::Borrowed(&bytes)
        } else {
            // What cannot be converted has not been written.
            Cow::Owned(converted(&bytes, tensor, dtype).map_err(|_| place)?)
        };
        let found = &written[place * dtype.size()..][..run * dtype.size()];
        if found != expected.as_slice() {
            let differs = found.iter().zip(expected.iter()).position(|(a, b)| a != b);
            return Err(place + differs.unwrap_or(0) / dtype.size());
        }
        count += run;
        // The next run: count through all axes but the last.
        let mut axis = extents.len().saturating_sub(1);
        loop {
            if axis == 0 {
                return Ok(count);
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < extents[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}
