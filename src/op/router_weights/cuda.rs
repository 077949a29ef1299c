//! No kernel for a GPU.

use super::RouterWeights;
use crate::backend::cuda::{Cuda, CudaArray};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

impl Launch for RouterWeights {
    fn gpu_implements(&self, _: Numerics) -> bool {
        false
    }

    fn launch(&self, _: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        Err(call.unsupported("weights of experts"))
    }

    fn kernel_source() -> String {
        String::new()
    }
}
