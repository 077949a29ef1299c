//! Comparing arrays where they are, and what the kernel wrote on its way back.

use super::access::last;
use super::array::CudaArray;
use super::cuda::Cuda;
use super::failure::driver;
use super::launch::{Arg, Grid};
use super::memory::Block;
use crate::error::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtrMut};
use std::ops::Range;
use std::sync::Arc;

/// Words that the kernel writes of a segment (`compare.cu`).
pub(crate) const WORDS: usize = 22;

/// The words of the comparison kernel. Reading them waits for that kernel and for nothing behind it.
pub(crate) struct CudaSegments {
    block: Block,
    words: usize,
    /// A stream that nothing else is sent to.
    results: Arc<CudaStream>,
}

impl CudaSegments {
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
    /// Sends the comparison of two arrays, with rows cut into `pieces`: [`WORDS`] of every segment.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the arrays are of different shapes or types;
    /// [`Error::DeviceUnavailable`] if the GPU fails.
    ///
    /// # Panics
    /// If a piece is beyond the row.
    pub(crate) fn compare(
        &self,
        reference: &CudaArray,
        candidate: &CudaArray,
        pieces: &[Range<usize>],
        close: Option<(f64, f64)>,
    ) -> Result<CudaSegments> {
        let dtype = reference.dtype;
        if (dtype, &reference.shape) != (candidate.dtype, &candidate.shape) {
            return Err(Error::Mismatch {
                at: "arrays".into(),
                expected: format!("{dtype} {:?}", reference.shape),
                found: format!("{} {:?}", candidate.dtype, candidate.shape),
            });
        }
        let row = last(&reference.shape);
        assert!(
            pieces.iter().all(|piece| piece.end <= row),
            "within the row"
        );
        let rows = reference.len().checked_div(row).unwrap_or(0);
        let segments = rows * pieces.len();
        let bounds = pieces
            .iter()
            .flat_map(|piece| [piece.start as i64, piece.end as i64]);
        let bounds = self.table(&[pieces.len(), 2], bounds.collect::<Vec<i64>>())?;
        let [reference, candidate] = [self.whole(reference)?, self.whole(candidate)?];
        let [r, c, bounds] = [&reference, &candidate, &bounds].map(|array| self.read(array));
        let words = segments * WORDS;
        let mut block = self.block(words * size_of::<u64>())?;
        {
            let (out, _record) = block.slice_mut().device_ptr_mut(&self.compute);
            let (atol, rtol) = close.unwrap_or_default();
            let args = [
                r.arg(),
                c.arg(),
                Arg::I64(segments as i64),
                Arg::I64(row as i64),
                Arg::I32(pieces.len() as i32),
                bounds.arg(),
                Arg::I32(close.is_some().into()),
                Arg::F64(atol),
                Arg::F64(rtol),
                Arg::Pointer(out),
            ];
            let grid = Grid::blocks(segments.div_ceil(8), (128, 1));
            self.send(dtype, "compare", grid, &args)?;
        }
        Ok(CudaSegments {
            block,
            words,
            results: self.results.clone(),
        })
    }
}
