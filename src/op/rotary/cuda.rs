//! Rotary position embeddings on a GPU.

use super::{Rotary, RotaryPairs};
use crate::backend::cuda::{Arg, Cuda, CudaArray, Grid, Kernel, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("rotary.cu"));
const KERNEL: Kernel = SOURCE.kernel("rotary");

impl Launch for Rotary {
    fn gpu_implements(&self, numerics: Numerics) -> bool {
        numerics == Numerics::elementwise(numerics.out, numerics.rounding)
    }

    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let &[batch, heads, positions, head_dim] = call.shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let x = gpu.contiguous(call.inputs[0])?;
        let args = [
            Arg::Array(&x),
            call.inputs[1].into(),
            call.inputs[2].into(),
            Arg::Result,
            (batch * heads * positions).into(),
            Arg::I32(heads as i32),
            Arg::I32(positions as i32),
            Arg::I32(head_dim as i32),
            Arg::I32(self.dims as i32),
            (self.pairs == RotaryPairs::Interleaved).into(),
            call.each(),
        ];
        let grid = Grid::elements(x.len());
        gpu.compute(call.dtype(), call.shape.clone(), KERNEL, grid, &args)
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}
