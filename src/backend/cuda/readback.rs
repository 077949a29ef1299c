//! What a kernel writes for the host, on its way back.

use super::cuda::Cuda;
use super::failure::driver;
use super::kernel::{Arg, Kernel};
use super::launch::Grid;
use super::memory::Block;
use crate::error::Result;
use crate::tensor::DType;
use cudarc::driver::{CudaStream, DevicePtrMut};
use std::sync::Arc;

/// Words that a kernel writes. Reading them waits for that kernel and for nothing after it.
pub(crate) struct CudaWords {
    block: Block,
    words: usize,
    /// A stream that nothing else is sent to.
    results: Arc<CudaStream>,
}

impl CudaWords {
    /// Waits, and returns the words.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) if a step before has failed.
    pub(crate) fn wait(self) -> Result<Vec<u64>> {
        let mut bytes = vec![0_u8; self.words * size_of::<u64>()];
        let mut read = || {
            let from = self.block.slice().slice(0..bytes.len());
            self.results.memcpy_dtoh(&from, bytes.as_mut_slice())?;
            self.results.synchronize()
        };
        read().map_err(driver("read results"))?;
        let words = bytes.chunks_exact(size_of::<u64>());
        Ok(words
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()))
            .collect())
    }
}

impl Cuda {
    /// Words that a kernel for values stored as `dtype` writes: this many.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) if the GPU fails.
    pub(crate) fn compute_words(
        &self,
        dtype: DType,
        words: usize,
        kernel: Kernel,
        grid: Grid,
        args: &[Arg<'_>],
    ) -> Result<CudaWords> {
        let mut block = self.block(words * size_of::<u64>())?;
        {
            let (out, _record) = block.slice_mut().device_ptr_mut(&self.compute);
            self.send(dtype, kernel, grid, args, out)?;
        }
        Ok(CudaWords {
            block,
            words,
            results: self.results.clone(),
        })
    }
}
