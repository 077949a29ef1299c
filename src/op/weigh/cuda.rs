//! No kernel for a GPU.

use super::Weigh;
use crate::backend::cuda::{Cuda, CudaArray};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

impl Launch for Weigh {
    fn gpu_implements(&self, _: Numerics) -> bool {
        false
    }

    fn launch(&self, _: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        Err(call.unsupported("weighted rows of experts"))
    }

    fn kernel_source() -> String {
        String::new()
    }
}
