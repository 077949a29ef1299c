//! Arrays on the GPU.

use super::gemm::Operand;
use super::memory::Block;
use crate::op::HeadPart;
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// An array in device memory. Cloning shares the data.
#[derive(Clone)]
pub struct CudaArray {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) block: Arc<Block>,
    pub(crate) layout: Layout,
    /// What it was made from, if it was sent up.
    pub(super) host: Option<Tensor>,
}

/// Where the elements of an array lie in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// In C order from the start.
    Contiguous,
    /// `[b, n, s, d]` with `b` or `s` of 1, where a fused projection `[b, s, n, 3, d]` has this part.
    Heads(HeadPart),
}

impl CudaArray {
    /// The storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extent of every axis, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Extent of the last axis.
    pub(crate) fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows; none if they are of nothing.
    pub(crate) fn rows(&self) -> usize {
        self.len().checked_div(self.row_len()).unwrap_or(0)
    }

    /// The same memory seen as an array of another shape, in its own order or as a part of a fused
    /// projection.
    pub(crate) fn viewed(&self, shape: Vec<usize>, layout: Layout) -> Self {
        Self {
            dtype: self.dtype,
            shape,
            block: self.block.clone(),
            layout,
            host: None,
        }
    }

    /// Heads `[b, n, s, d]`, whose first element lies here, as matrices `[d, s]` of a product.
    pub(crate) fn heads_at(&self, pointer: u64) -> Operand {
        let &[_, heads, positions, head_dim] = self.shape.as_slice() else {
            unreachable!("heads have four axes");
        };
        match self.layout {
            Layout::Contiguous => Operand::matrices(pointer, head_dim, positions * head_dim),
            Layout::Heads(_) => Operand::matrices(pointer, 3 * heads * head_dim, 3 * head_dim),
        }
    }
}
