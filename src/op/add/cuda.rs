//! Sums on a GPU.

use super::Add;
use crate::backend::cuda::{Cuda, CudaArray, Kernel, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("add.cu"));
const KERNEL: Kernel = SOURCE.kernel("add");

impl Launch for Add {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        add(gpu, call.inputs[0], call.inputs[1])
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}

/// `a + b`.
pub(crate) fn add(gpu: &Cuda, a: &CudaArray, b: &CudaArray) -> Result<CudaArray> {
    gpu.compute_elements(KERNEL, &[a, b], &[])
}
