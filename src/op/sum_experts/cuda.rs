//! No kernel for a GPU.

use super::SumExperts;
use crate::backend::cuda::{Cuda, CudaArray};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

impl Launch for SumExperts {
    fn gpu_implements(&self, _: Numerics) -> bool {
        false
    }

    fn launch(&self, _: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        Err(call.unsupported("sums of experts"))
    }

    fn kernel_source() -> String {
        String::new()
    }
}
