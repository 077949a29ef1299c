//! Values times a constant on a GPU.

use super::Scale;
use crate::backend::cuda::{Cuda, CudaArray, Kernel, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("scale.cu"));
const KERNEL: Kernel = SOURCE.kernel("scale");

impl Launch for Scale {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        gpu.compute_elements(KERNEL, call.inputs, &[self.factor.into()])
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
