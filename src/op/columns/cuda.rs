//! No kernel for a GPU.

use super::Columns;
use crate::backend::cuda::{Cuda, CudaArray};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

impl Launch for Columns {
    fn gpu_implements(&self, _: Numerics) -> bool {
        false
    }

    fn launch(&self, _: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        Err(call.unsupported("columns of a projection"))
    }

    fn kernel_source() -> String {
        String::new()
    }
}
