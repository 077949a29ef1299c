//! Heads out of a fused projection on a GPU.

use super::{HeadPart, QkvLayout, SplitHeads};
use crate::backend::cuda::{Arg, Cuda, CudaArray, Grid, Kernel, Layout, Source};
use crate::error::Result;
use crate::op::Numerics;
use crate::op::launch::{Call, Launch};

const SOURCE: Source = Source::new(include_str!("split_heads.cu"));
const SPLIT: Kernel = SOURCE.kernel("split_heads");
const REPEAT: Kernel = SOURCE.kernel("repeat_heads");

impl Launch for SplitHeads {
    fn gpu_implements(&self, _: Numerics) -> bool {
        true
    }

    /// The heads of one sequence, or of one position of several, are left where a projection that has
    /// them per head has them, as PyTorch's `reshape` leaves them; products then have the
    /// projection's leading dimensions. A key-value cache copies them. Of other layouts they are
    /// always copied.
    fn launch(&self, gpu: &Cuda, call: &Call<'_>) -> Result<CudaArray> {
        let &[batch, _, positions, _] = call.shape.as_slice() else {
            unreachable!("the step's shape was checked");
        };
        let fused = gpu.contiguous(call.inputs[0])?;
        let moves = self.layout != QkvLayout::PerHead || self.cached;
        if moves || (batch > 1 && positions > 1) {
            return copied(gpu, &fused, self.layout, self.part, call.shape.clone());
        }
        Ok(fused.viewed(call.shape.clone(), Layout::Heads(self.part)))
    }

    fn kernel_source() -> String {
        SOURCE.text().to_owned()
    }
}

/// A part of the projection in this memory, as an array `[b, n, s, d]` of its own.
pub(crate) fn copied(
    gpu: &Cuda,
    memory: &CudaArray,
    layout: QkvLayout,
    part: HeadPart,
    shape: Vec<usize>,
) -> Result<CudaArray> {
    let &[batch, heads, positions, head_dim] = shape.as_slice() else {
        unreachable!("heads have four axes");
    };
    let part = part as usize;
    let (first, stride) = match layout {
        QkvLayout::PerHead => (part * head_dim, 3 * head_dim),
        QkvLayout::PerPart => (part * heads * head_dim, head_dim),
        QkvLayout::Separate => (0, head_dim),
    };
    let width = layout.parts() * heads * head_dim;
    let fused = memory.viewed(vec![batch, positions, width], Layout::Contiguous);
    let args = [
        Arg::Array(&fused),
        Arg::Result,
        batch.into(),
        positions.into(),
        heads.into(),
        head_dim.into(),
        width.into(),
        first.into(),
        stride.into(),
    ];
    let grid = Grid::elements(shape.iter().product());
    gpu.compute(fused.dtype(), shape, SPLIT, grid, &args)
}

/// Heads `[b, g, s, d]` of groups as `[b, heads, s, d]`: those of each of its queries, as
/// transformers' `repeat_kv` and Megatron's `repeat_interleave` copy them.
pub(crate) fn repeated(gpu: &Cuda, x: &CudaArray, heads: usize) -> Result<CudaArray> {
    let &[batch, groups, positions, head_dim] = x.shape() else {
        unreachable!("heads have four axes");
    };
    if groups == heads {
        return Ok(x.clone());
    }
    let x = gpu.contiguous(x)?;
    let args = [
        Arg::Array(&x),
        Arg::Result,
        (batch * groups).into(),
        (positions * head_dim).into(),
        (heads / groups.max(1)).into(),
    ];
    let shape = vec![batch, heads, positions, head_dim];
    let grid = Grid::elements(shape.iter().product());
    gpu.compute(x.dtype(), shape, REPEAT, grid, &args)
}
