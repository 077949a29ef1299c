//! Arrays on the GPU.

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
    pub(super) layout: Layout,
    /// What it was made from, if it was sent up.
    pub(super) host: Option<Tensor>,
}

/// Where the elements of an array lie in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In C order from the start.
    Whole,
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
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}
