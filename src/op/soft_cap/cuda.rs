//! Soft caps on a GPU.

use super::{SoftCap, soft_cap};
use crate::backend::cuda::{Cuda, CudaArray, Kernel, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::formula_source::formula_source;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("soft_cap.cu"));
const KERNEL: Kernel = SOURCE.kernel("soft_cap");

impl Launch for SoftCap {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        gpu.compute_elements(KERNEL, call.inputs, &[self.cap.into(), call.each()])
    }

    fn kernel_source() -> String {
        let formula = formula_source("soft_cap", ["cap", "x"], |[cap, x]| soft_cap(cap, x));
        formula + SOURCE.text()
    }
}
