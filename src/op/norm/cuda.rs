//! Norms on a GPU.

use crate::backend::cuda::{Arg, Cuda, CudaArray, Grid, Kernel};
use crate::error::Result;
use crate::op::launch::Call;

/// Longer rows are not exact in an fp32 count.
pub(in crate::op) const MOST_COLUMNS: usize = 1 << 24;

/// A norm of every row, by a block of threads each.
pub(in crate::op) fn launch_norm(
    gpu: &Cuda,
    call: &Call<'_>,
    kernel: Kernel,
    threads: (u32, u32),
    eps: f64,
) -> Result<CudaArray> {
    let x = gpu.contiguous(call.inputs[0])?;
    let mut args = vec![Arg::Array(&x)];
    args.extend(call.params.iter().copied().map(Arg::Array));
    args.extend([Arg::Result, x.row_len().into(), Arg::F32(eps as f32)]);
    let grid = Grid::blocks(x.rows(), threads);
    gpu.compute(call.dtype(), call.shape.clone(), kernel, grid, &args)
}
