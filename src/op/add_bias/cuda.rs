//! Biases on a GPU.

use super::AddBias;
use crate::backend::cuda::{Cuda, CudaArray, Kernel, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("add_bias.cu"));
const ADD_ROW: Kernel = SOURCE.kernel("add_row");

impl Launch for AddBias {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let (x, bias) = (call.inputs[0], call.params[0]);
        gpu.compute_elements(ADD_ROW, &[x, bias], &[x.row_len().into()])
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
