//! LayerNorm on a GPU, by the kernel that the framework would use.

use super::LayerNorm;
use crate::backend::cuda::{Arg, Cuda, CudaArray, Grid, Kernel, Source};
use crate::error::Result;
use crate::op::launch::{Call, Launch};
use crate::op::{Numerics, Summation};

const TORCH: Source = Source::new(include_str!("layer_norm.cu"));
const VECTORS: Kernel = TORCH.kernel("layer_norm");
const SCALAR: Kernel = TORCH.kernel("layer_norm_scalar");
const MEGATRON: Source = Source::new(include_str!("megatron_layer_norm.cu"));
const MEGATRON_VECTORS: Kernel = MEGATRON.kernel("megatron_layer_norm");

/// Longer rows are not exact in an fp32 count.
pub(crate) const MOST_COLUMNS: usize = 1 << 24;

impl Launch for LayerNorm {
    fn gpu_implements(&self, numerics: &Numerics) -> bool {
        numerics.is_of_cuda_kernel()
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let columns = call.inputs[0].row_len();
        let vectors = columns.is_multiple_of(4) && columns <= MOST_COLUMNS;
        let (kernel, threads) = match (call.numerics.summation, vectors) {
            (Summation::MegatronCuda, _) => (MEGATRON_VECTORS, (32, 4)),
            (_, true) => (VECTORS, (32, 4)),
            (_, false) => (SCALAR, (512, 1)),
        };
        norm(gpu, call, kernel, threads, self.eps)
    }

    fn kernel_source() -> String {
        [TORCH, MEGATRON].map(Source::text).concat()
    }
}

/// A norm of every row, by a block of threads each.
pub(crate) fn norm(
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
