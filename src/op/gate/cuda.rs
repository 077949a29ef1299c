//! Gated layers on a GPU.

use super::Gate;
use crate::backend::cuda::{Cuda, CudaArray, Kernel, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("gate.cu"));
const KERNEL: Kernel = SOURCE.kernel("gate");

impl Launch for Gate {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let args = [(&self.activation).into(), call.each()];
        gpu.compute_elements(KERNEL, call.inputs, &args)
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
