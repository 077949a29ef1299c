//! Operands of products as matrices.

use crate::error::Result;
use crate::tensor::{Float, Tensor};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Ix2, Ix4};

/// So many elements that belong to one head, in fp32.
pub(super) fn widened_head<T: Float>(all: &[T], head: usize, len: usize) -> Vec<f32> {
    T::widened(&all[head * len..(head + 1) * len]).into_owned()
}

/// The place, among the matrices of `groups` heads, of the one that a head of `heads` reads: heads in a
/// row share one.
pub(super) fn group_of(head: usize, heads: usize, groups: usize) -> usize {
    let (batch, head) = (head / heads, head % heads);
    batch * groups + head / (heads / groups)
}

/// Elements as rows and columns.
pub(super) fn matrix(data: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, columns), data).expect("cut to whole rows")
}

/// The matrices of the last two axes of `[b, n, s, d]`.
pub(super) fn matrices(tensor: &Tensor) -> Result<Vec<Array2<f64>>> {
    let view = tensor.view::<f64>()?;
    let view = view
        .into_dimensionality::<Ix4>()
        .expect("the step's shape was checked");
    let heads = view.outer_iter().flat_map(|batch| {
        let heads = batch.outer_iter().map(|head| head.to_owned());
        heads.collect::<Vec<_>>()
    });
    Ok(heads.collect())
}

/// `a · b` in fp64.
pub(super) fn product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut out = Array2::zeros(Ix2(a.nrows(), b.ncols()));
    general_mat_mul(1.0, &a, &b, 0.0, &mut out);
    out
}
