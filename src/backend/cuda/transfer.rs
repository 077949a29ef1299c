//! Copies to the GPU, through pinned buffers: the driver copies from those while this thread goes on.

use super::failure::driver;
use super::memory::{Block, lock};
use crate::error::Result;
use cudarc::driver::{CudaStream, HostSlice, PinnedHostSlice, SyncOnDrop};
use std::sync::{Arc, Mutex};

/// Bytes of a buffer: large enough that the bus is busy, small enough that the first copy starts soon.
const BUFFER: usize = 8 << 20;
/// Buffers: while one is copied from, the next is filled.
const BUFFERS: usize = 2;

/// Sends bytes up on one stream.
pub(super) struct Transfer {
    stream: Arc<CudaStream>,
    buffers: Mutex<Buffers>,
}

struct Buffers {
    pinned: Vec<PinnedHostSlice<u8>>,
    next: usize,
}

impl Transfer {
    /// Takes the buffers.
    pub(super) fn new(stream: Arc<CudaStream>) -> Result<Self> {
        let pinned = (0..BUFFERS).map(|_| {
            // SAFETY: every byte that is read was written before. Write-combined memory, which is slow
            // to read, is right here: this thread only writes to it.
            #[expect(unsafe_code, reason = "memory that is not set")]
            let buffer = unsafe { stream.context().alloc_pinned::<u8>(BUFFER) };
            buffer.map_err(driver("take pinned memory"))
        });
        let pinned = pinned.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            stream,
            buffers: Mutex::new(Buffers { pinned, next: 0 }),
        })
    }

    /// Sends `bytes` to the start of `to`. Returns when they have been read; steps on any stream wait
    /// for them by themselves.
    pub(super) fn send(&self, bytes: &[u8], to: &mut Block) -> Result<()> {
        let mut buffers = lock(&self.buffers);
        for (number, chunk) in bytes.chunks(BUFFER).enumerate() {
            let next = buffers.next;
            buffers.next = (next + 1) % BUFFERS;
            let buffer = &mut buffers.pinned[next];
            let mut copy = || {
                // Waits for the copy that was made from it before.
                buffer.as_mut_slice()?[..chunk.len()].copy_from_slice(chunk);
                let start = number * BUFFER;
                let mut to = to.slice_mut().slice_mut(start..start + chunk.len());
                let from = Filled {
                    buffer,
                    len: chunk.len(),
                };
                self.stream.memcpy_htod(&from, &mut to)
            };
            copy().map_err(driver("copy to the GPU"))?;
        }
        Ok(())
    }
}

/// The part of a buffer that has been filled.
struct Filled<'a> {
    buffer: &'a PinnedHostSlice<u8>,
    len: usize,
}

impl HostSlice<u8> for Filled<'_> {
    fn len(&self) -> usize {
        self.len
    }

    #[expect(unsafe_code, reason = "the trait's")]
    unsafe fn stream_synced_slice<'a>(
        &'a self,
        stream: &'a CudaStream,
    ) -> (&'a [u8], SyncOnDrop<'a>) {
        // SAFETY: passed on to the buffer's own, whose record of the copy is returned.
        let (bytes, record) = unsafe { self.buffer.stream_synced_slice(stream) };
        (&bytes[..self.len], record)
    }

    #[expect(unsafe_code, reason = "the trait's")]
    unsafe fn stream_synced_mut_slice<'a>(
        &'a mut self,
        stream: &'a CudaStream,
    ) -> (&'a mut [u8], SyncOnDrop<'a>) {
        // Nothing is copied back into a part of a buffer.
        let record = SyncOnDrop::sync_stream(stream);
        (&mut [], record)
    }
}
