//! What the comparison kernel wrote, on its way back.

use super::failure::driver;
use super::memory::Block;
use crate::error::Result;
use cudarc::driver::CudaStream;
use std::sync::Arc;

/// The words of the comparison kernel. Reading them waits for that kernel and for nothing behind it.
pub struct CudaSegments {
    pub(super) block: Block,
    pub(super) words: usize,
    /// A stream that nothing else is sent to.
    pub(super) results: Arc<CudaStream>,
}

impl CudaSegments {
    /// Waits, and returns the words.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) if a step before has failed.
    pub fn wait(self) -> Result<Vec<u64>> {
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
