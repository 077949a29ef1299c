//! Heads out of a fused projection on a GPU.

use super::{HeadPart, QkvLayout, SplitHeads};
use crate::backend::cuda::{Arg, Cuda, CudaArray, Grid, Kernel, Layout, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("split_heads.cu"));
const KERNEL: Kernel = SOURCE.kernel("split_heads");

impl Launch for SplitHeads {
    fn gpu_implements(&self, _: Numerics) -> bool {
        true
    }

    /// The heads of one sequence, or of one position of several, are left where they are, as PyTorch's
    /// `reshape` leaves them; products then have the projection's leading dimensions. A key-value cache
    /// copies them.
    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let QkvLayout::PerHead = self.layout;
        let &[batch, _, positions, _] = call.shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let fused = gpu.contiguous(call.inputs[0])?;
        if self.cached || (batch > 1 && positions > 1) {
            return copied(gpu, &fused, self.part, call.shape.clone());
        }
        Ok(fused.viewed(call.shape.clone(), Layout::Heads(self.part)))
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}

/// A part of the fused projection in this memory, as an array `[b, n, s, d]` of its own.
pub(crate) fn copied(
    gpu: &Cuda,
    memory: &CudaArray,
    part: HeadPart,
    shape: Vec<usize>,
) -> Result<CudaArray> {
    let &[batch, heads, positions, head_dim] = shape.as_slice() else {
        unreachable!("heads have four axes");
    };
    let fused = memory.viewed(
        vec![batch, positions, 3 * heads * head_dim],
        Layout::Contiguous,
    );
    let args = [
        Arg::Array(&fused),
        Arg::Result,
        batch.into(),
        positions.into(),
        heads.into(),
        head_dim.into(),
        Arg::I32(part as i32),
    ];
    let grid = Grid::elements(shape.iter().product());
    gpu.compute(fused.dtype(), shape, KERNEL, grid, &args)
}
