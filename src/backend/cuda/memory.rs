//! Device memory: who has how much of it, and blocks that arrays take turns in when they are sent up.

use super::failure::{driver, unavailable};
use crate::error::{Error, Result};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaSlice, CudaStream};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A block of device memory. Goes back where it came from when nobody holds it any more: the GPU's own
/// streams see to it that what was sent before still finds it.
pub(super) struct Block {
    slice: Option<CudaSlice<u8>>,
    home: Home,
}

enum Home {
    /// Memory of the stream it was taken from, in the order of its work.
    Stream(Arc<Meter>),
    /// A block of the upload pool.
    UploadPool(Arc<UploadPool>),
}

impl Block {
    /// The memory.
    pub(super) fn slice(&self) -> &CudaSlice<u8> {
        self.slice.as_ref().expect("taken at the end only")
    }

    /// The memory, to write to.
    pub(super) fn slice_mut(&mut self) -> &mut CudaSlice<u8> {
        self.slice.as_mut().expect("taken at the end only")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(slice) = self.slice.take() else {
            return;
        };
        match &self.home {
            Home::Stream(meter) => {
                let bytes = slice.num_bytes() as u64;
                drop(slice);
                meter.give_back(bytes);
            }
            Home::UploadPool(pool) => pool.take_back(slice),
        }
    }
}

/// Counts what arrays take, against the most they may.
pub(super) struct Meter {
    limit: Option<u64>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    live: u64,
    peak: u64,
}

impl Meter {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            counts: Mutex::default(),
        }
    }

    /// The most that was taken since [`Self::restart`].
    pub(super) fn peak(&self) -> u64 {
        lock(&self.counts).peak
    }

    /// Forgets the peak.
    pub(super) fn restart(&self) {
        let mut counts = lock(&self.counts);
        counts.peak = counts.live;
    }

    /// What the limit leaves, if that is less than these bytes.
    fn left_below(&self, bytes: u64) -> Option<u64> {
        let left = self.limit?.saturating_sub(lock(&self.counts).live);
        (left < bytes).then_some(left)
    }

    fn take(&self, bytes: u64) {
        let mut counts = lock(&self.counts);
        counts.live += bytes;
        counts.peak = counts.peak.max(counts.live);
    }

    fn give_back(&self, bytes: u64) {
        let mut counts = lock(&self.counts);
        counts.live = counts.live.saturating_sub(bytes);
    }
}

/// Blocks that arrays are sent up into, in turn: while steps read one, the next is filled. A block is
/// taken again when the pool has grown to its window; the stream that fills it waits for the steps
/// that still read it, and nobody else does.
pub(super) struct UploadPool {
    stream: Arc<CudaStream>,
    meter: Arc<Meter>,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    /// Bytes that the pool grows to before it takes blocks again.
    window: u64,
    /// Bytes of all its blocks.
    held: u64,
    /// Blocks that nobody holds, the longest unused first.
    free: VecDeque<CudaSlice<u8>>,
}

impl UploadPool {
    pub(super) fn new(stream: Arc<CudaStream>, meter: Arc<Meter>) -> Arc<Self> {
        Arc::new(Self {
            stream,
            meter,
            state: Mutex::default(),
        })
    }

    /// Gives all unused blocks up, and sets how far the pool may grow from now on.
    pub(super) fn restart(&self, window: u64) {
        self.empty();
        lock(&self.state).window = window;
    }

    /// A block of at least this many bytes.
    pub(super) fn block(self: &Arc<Self>, bytes: usize) -> Result<Block> {
        let wanted = bytes.max(1) as u64;
        let slice = match self.reused(wanted) {
            Some(slice) => slice,
            None => {
                self.make_room(wanted);
                let slice = allocate(&self.stream, bytes, &self.meter, || self.empty())?;
                lock(&self.state).held += slice.num_bytes() as u64;
                slice
            }
        };
        Ok(Block {
            slice: Some(slice),
            home: Home::UploadPool(self.clone()),
        })
    }

    /// A block that fits, if the pool has grown to its window.
    fn reused(&self, wanted: u64) -> Option<CudaSlice<u8>> {
        let mut state = lock(&self.state);
        if state.held + wanted <= state.window {
            return None;
        }
        let fits = |slice: &CudaSlice<u8>| {
            let bytes = slice.num_bytes() as u64;
            (wanted..=wanted.saturating_mul(2)).contains(&bytes)
        };
        let place = state.free.iter().position(fits)?;
        state.free.remove(place)
    }

    /// Gives unused blocks up until `wanted` bytes more are within the window.
    fn make_room(&self, wanted: u64) {
        let mut state = lock(&self.state);
        while state.held + wanted > state.window
            && let Some(slice) = state.free.pop_front()
        {
            self.forget(&mut state, slice);
        }
    }

    /// Gives all unused blocks up.
    pub(super) fn empty(&self) {
        let mut state = lock(&self.state);
        while let Some(slice) = state.free.pop_front() {
            self.forget(&mut state, slice);
        }
    }

    fn forget(&self, state: &mut PoolState, slice: CudaSlice<u8>) {
        let bytes = slice.num_bytes() as u64;
        state.held = state.held.saturating_sub(bytes);
        self.meter.give_back(bytes);
    }

    fn take_back(&self, slice: CudaSlice<u8>) {
        lock(&self.state).free.push_back(slice);
    }
}

/// Memory for an array that steps on `stream` compute or read. `spare` gives up what is held in
/// reserve.
pub(super) fn block_of(
    stream: &Arc<CudaStream>,
    bytes: usize,
    meter: &Arc<Meter>,
    spare: impl FnOnce(),
) -> Result<Block> {
    let slice = allocate(stream, bytes, meter, spare)?;
    Ok(Block {
        slice: Some(slice),
        home: Home::Stream(meter.clone()),
    })
}

/// Takes memory; where there is none, once more when all that is on its way back has arrived.
fn allocate(
    stream: &Arc<CudaStream>,
    bytes: usize,
    meter: &Meter,
    spare: impl FnOnce(),
) -> Result<CudaSlice<u8>> {
    let bytes = bytes.max(1);
    // SAFETY: nothing reads the memory before a copy or a kernel has written all of it.
    #[expect(unsafe_code, reason = "memory that is not set")]
    let take = || unsafe { stream.alloc::<u8>(bytes) };
    let mut slice = match meter.left_below(bytes as u64) {
        None => take(),
        Some(_) => Err(cudarc::driver::DriverError(
            CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        )),
    };
    if let Err(error) = &slice
        && error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    {
        spare();
        let context = stream.context();
        context.synchronize().map_err(driver("wait for memory"))?;
        if let Some(left) = meter.left_below(bytes as u64) {
            return Err(over_the_limit(bytes, left));
        }
        slice = take();
    }
    let slice = slice.map_err(driver(&format!("take {} of device memory", size(bytes))))?;
    meter.take(bytes as u64);
    Ok(slice)
}

fn over_the_limit(bytes: usize, left: u64) -> Error {
    unavailable(format!(
        "out of device memory: an array of {} does not fit into the {} that --gpu-memory leaves beside \
         what is in use; give more",
        size(bytes),
        size(left as usize)
    ))
}

/// `4.2 MB`, `640 bytes`.
fn size(bytes: usize) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// A panic elsewhere leaves counts that are still true.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
