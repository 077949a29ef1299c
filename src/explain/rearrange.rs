//! Parameters in another order.

use crate::error::{Error, Result};
use crate::tensor::{DType, Element, Float, Tensor, with_element, with_float};

/// The rows (first axis) of a tensor in this order.
pub(super) fn rows(tensor: &Tensor, order: &[usize]) -> Result<Tensor> {
    let width = tensor.len().checked_div(order.len()).unwrap_or(0);
    with_element!(tensor.dtype(), T => {
        let all = tensor.as_slice::<T>()?;
        let picked = order.iter().flat_map(|row| &all[row * width..(row + 1) * width]);
        Tensor::from_vec(tensor.shape(), picked.copied().collect())
    })
}

/// The columns of a matrix in this order.
pub(super) fn columns(tensor: &Tensor, order: &[usize]) -> Result<Tensor> {
    with_element!(tensor.dtype(), T => {
        let all = tensor.as_slice::<T>()?;
        let rows = all.chunks(order.len().max(1));
        let picked = rows.flat_map(|row| order.iter().map(|column| row[*column]));
        Tensor::from_vec(tensor.shape(), picked.collect())
    })
}

/// The elements as an array of extents `view` with its axes in another order; in the tensor's own
/// shape again.
pub(super) fn axes(tensor: &Tensor, view: &[usize], axes: &[usize]) -> Result<Tensor> {
    let viewed = tensor.clone().reshaped(view)?;
    viewed.permuted(axes).reshaped(tensor.shape())
}

/// Every element mapped in fp64 and rounded to the tensor's type.
pub(super) fn mapped(tensor: &Tensor, of: impl Fn(f64) -> f64) -> Result<Tensor> {
    with_float!(tensor.dtype(), T => {
        let values = tensor.as_slice::<T>()?.iter();
        let values = values.map(|x| T::from_f64(of(x.to_f64())));
        Tensor::from_vec(tensor.shape(), values.collect())
    }, else Err(not_floating(tensor)))
}

/// In another type.
pub(super) fn cast(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    with_float!(dtype, T => {
        let wide = tensor.widened()?;
        let values = wide.as_slice::<f64>()?.iter().map(|x| T::from_f64(*x));
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
