//! Products on a GPU.

use super::Multiply;
use crate::backend::cuda::{Cuda, CudaArray, Kernel, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("multiply.cu"));
const KERNEL: Kernel = SOURCE.kernel("multiply");

impl Launch for Multiply {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        gpu.compute_elements(KERNEL, call.inputs, &[])
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
