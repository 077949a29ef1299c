//! Parameters in another order.

use crate::error::{Error, Result};
use crate::tensor::{Element, Float, Tensor, with_element, with_float};
use rayon::prelude::*;

/// The rows (first axis) of a tensor in this order.
pub(super) fn rows(tensor: &Tensor, order: &[usize]) -> Result<Tensor> {
    picked(tensor, order, order.len(), tensor.shape())
}

/// The rows at these places of `count`, as an array of this shape.
pub(super) fn picked(
    tensor: &Tensor,
    places: &[usize],
    count: usize,
    shape: &[usize],
) -> Result<Tensor> {
    let width = tensor.len().checked_div(count).unwrap_or(0);
    with_element!(tensor.dtype(), T => {
        let all = tensor.as_slice::<T>()?;
        let mut out = vec![bytemuck::Zeroable::zeroed(); places.len() * width];
        out.par_chunks_mut(width.max(1)).zip(places).for_each(|(out, row)| {
            out.copy_from_slice(&all[row * width..(row + 1) * width]);
        });
        Tensor::from_vec::<T>(shape, out)
    })
}

/// The order that undoes another.
pub(super) fn inverse(order: &[usize]) -> Vec<usize> {
    let mut back = vec![0; order.len()];
    for (row, from) in order.iter().enumerate() {
        back[*from] = row;
    }
    back
}

/// The columns of a matrix in this order.
pub(super) fn columns(tensor: &Tensor, order: &[usize]) -> Result<Tensor> {
    let width = order.len().max(1);
    with_element!(tensor.dtype(), T => {
        let all = tensor.as_slice::<T>()?;
        let mut out = vec![bytemuck::Zeroable::zeroed(); all.len()];
        out.par_chunks_mut(width).zip(all.par_chunks(width)).for_each(|(out, row)| {
            for (out, column) in out.iter_mut().zip(order) {
                *out = row[*column];
            }
        });
        Tensor::from_vec::<T>(tensor.shape(), out)
    })
}

/// The elements as an array `[a, b, c]` with its first two axes swapped; in the tensor's own shape
/// again.
pub(super) fn swapped(tensor: &Tensor, [a, b, c]: [usize; 3]) -> Result<Tensor> {
    with_element!(tensor.dtype(), T => {
        let all = tensor.as_slice::<T>()?;
        let mut out = vec![bytemuck::Zeroable::zeroed(); all.len()];
        out.par_chunks_mut((a * c).max(1)).enumerate().for_each(|(row, out)| {
            for (column, out) in out.chunks_mut(c.max(1)).enumerate() {
                let start = (column * b + row) * c;
                out.copy_from_slice(&all[start..start + c]);
            }
        });
        Tensor::from_vec::<T>(tensor.shape(), out)
    })
}

/// Every element mapped in fp64 and rounded to the tensor's type.
pub(super) fn mapped(tensor: &Tensor, mut of: impl FnMut(f64) -> f64) -> Result<Tensor> {
    with_float!(tensor.dtype(), T => {
        let values = tensor.as_slice::<T>()?.iter();
        let values = values.map(|x| T::nearest(of(x.to_f64())));
        Tensor::from_vec(tensor.shape(), values.collect())
    }, else Err(not_floating(tensor)))
}

fn not_floating(tensor: &Tensor) -> Error {
    Error::Mismatch {
        at: "parameter".into(),
        expected: "floating values".into(),
        found: tensor.dtype().to_string(),
    }
}
