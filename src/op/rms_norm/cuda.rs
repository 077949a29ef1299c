//! RMSNorm on a GPU.

use super::RmsNorm;
use crate::backend::cuda::{Cuda, CudaArray, Kernel, Source};
use crate::error::Result;
use crate::op::launch::{Call, Launch};
use crate::op::norm::{MOST_COLUMNS, launch_norm};
use crate::op::{Numerics, Summation};

const SOURCE: Source = Source::new(include_str!("rms_norm.cu"));
const KERNEL: Kernel = SOURCE.kernel("rms_norm");

impl Launch for RmsNorm {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics.is_of_cuda_kernel()
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        if call.params.len() > 1 {
            return Err(call.unsupported("an RMS norm with a bias"));
        }
        if call.numerics.summation != Summation::TorchCuda {
            return Err(call.unsupported("an RMS norm as Megatron sums it"));
        }
        let columns = call.inputs[0].row_len();
        if !columns.is_multiple_of(4) || columns > MOST_COLUMNS {
            let what = format!("an RMS norm of rows of {columns}: multiples of 4 up to 2^24");
            return Err(call.unsupported(what));
        }
        launch_norm(gpu, call, KERNEL, (32, 4), self.eps)
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
