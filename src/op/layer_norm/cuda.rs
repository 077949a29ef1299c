//! LayerNorm on a GPU, by the kernel that the framework would use.

use super::LayerNorm;
use crate::backend::cuda::{Cuda, CudaArray, Kernel, Source};
use crate::error::Result;
use crate::op::launch::{Call, Launch};
use crate::op::norm::{MOST_COLUMNS, launch_norm};
use crate::op::{Numerics, Summation};

const TORCH: Source = Source::new(include_str!("layer_norm.cu"));
const VECTORS: Kernel = TORCH.kernel("layer_norm");
const SCALAR: Kernel = TORCH.kernel("layer_norm_scalar");
const MEGATRON: Source = Source::new(include_str!("megatron_layer_norm.cu"));
const MEGATRON_VECTORS: Kernel = MEGATRON.kernel("megatron_layer_norm");

impl Launch for LayerNorm {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
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
        launch_norm(gpu, call, kernel, threads, self.eps)
    }

    fn kernel_source() -> String {
        [TORCH, MEGATRON].map(Source::text).concat()
    }
}
