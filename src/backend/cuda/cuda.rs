//! The backend: a GPU, its streams, its memory and what runs on it.

use super::array::CudaArray;
use super::blas::Blas;
use super::compiler::Compiler;
use super::failure::driver;
use super::launch::Kernels;
use super::memory::{Block, Meter, UploadPool, block_of, lock};
use super::probe::Usable;
use super::product::Product;
use super::settings::CudaSettings;
use super::transfer::Transfer;
use crate::backend::Gpu;
use crate::digest::sha256;
use crate::error::Result;
use crate::plan::{Plan, StageId};
use crate::tensor::MappedFile;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Layers whose parameters and recorded values have room: one that is computed and one that is on its
/// way up.
const LAYERS: u64 = 2;

/// The CUDA backend, on the first GPU.
pub struct Cuda {
    gpu: Gpu,
    context: Arc<CudaContext>,
    /// Steps run here, one after the other.
    pub(super) compute: Arc<CudaStream>,
    /// Results of comparisons come back here.
    pub(super) results: Arc<CudaStream>,
    pub(super) meter: Arc<Meter>,
    /// Where arrays lie that were sent up.
    pub(super) uploads: Arc<UploadPool>,
    /// Sends them, on a stream of its own.
    pub(super) transfer: Transfer,
    /// Constants that many steps read: slopes, angles, bounds of segments.
    pub(super) tables: Mutex<Vec<CudaArray>>,
    pub(super) kernels: Kernels,
    pub(crate) blas: Blas,
    /// Held by the run in progress: its settings and its accounts are those of the whole backend.
    running: Mutex<()>,
    /// SHA-256 of the files of cuBLAS and cuBLASLt, once they have been asked for.
    digests: [OnceLock<Option<String>>; 2],
}

/// A run on the GPU, from its start.
pub(crate) struct Session<'a> {
    cuda: &'a Cuda,
    started: CudaEvent,
    _running: MutexGuard<'a, ()>,
}

/// What a run took and did.
#[derive(Clone, Debug)]
pub struct GpuStats {
    /// Time on the GPU from the first step to the last, waits for what was sent up included.
    pub elapsed_ms: f64,
    /// The most device memory that arrays took, in bytes.
    pub peak_memory: u64,
    /// The matrix products.
    pub products: Vec<Product>,
}

impl Cuda {
    /// Finds a GPU and gets it ready.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) with what is missing.
    pub fn open(settings: &CudaSettings) -> Result<Self> {
        let found = Usable::find(settings)?;
        let context = CudaContext::new(0).map_err(driver("open the GPU"))?;
        let stream = || context.new_stream().map_err(driver("make a stream"));
        let (compute, copies, results) = (stream()?, stream()?, stream()?);
        let meter = Arc::new(Meter::new(settings.memory));
        let (major, minor) = found.capability;
        let blas = Blas::new(found.cublas, found.lt, &compute, found.capability)?;
        Ok(Self {
            gpu: found.gpu,
            uploads: UploadPool::new(copies.clone(), meter.clone()),
            transfer: Transfer::new(copies)?,
            tables: Mutex::default(),
            kernels: Kernels::new(
                context.clone(),
                Compiler::new(found.nvrtc),
                format!("sm_{major}{minor}"),
            ),
            context,
            compute,
            results,
            meter,
            blas,
            running: Mutex::default(),
            digests: Default::default(),
        })
    }

    /// The GPU and its libraries, without the digests of their files.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The GPU and its libraries, with the digests of those files that a reference has one of: they
    /// are hundreds of megabytes.
    pub(crate) fn gpu_beside(&self, reference: Option<&Gpu>) -> Gpu {
        let [cublas, lt] = self.blas.files().map(|path| path.map(Path::to_owned));
        let digest = |asked: Option<&String>, place: usize, path: Option<PathBuf>| {
            asked?;
            let of_file = || MappedFile::open(path?).ok().map(|file| sha256(&file));
            self.digests[place].get_or_init(of_file).clone()
        };
        Gpu {
            cublas_sha256: digest(
                reference.and_then(|gpu| gpu.cublas_sha256.as_ref()),
                0,
                cublas,
            ),
            cublaslt_sha256: digest(
                reference.and_then(|gpu| gpu.cublaslt_sha256.as_ref()),
                1,
                lt,
            ),
            ..self.gpu.clone()
        }
    }

    /// Begins a run, when the one before is over, of `plan` on values of these shapes, with the
    /// settings that the reference's run had.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) if the GPU fails.
    pub(crate) fn session(
        &self,
        plan: &Plan,
        shapes: &HashMap<StageId, Vec<usize>>,
        reference: Option<&Gpu>,
    ) -> Result<Session<'_>> {
        let running = lock(&self.running);
        self.blas.restart(reference)?;
        lock(&self.tables).clear();
        self.uploads.restart(LAYERS * plan.largest_layer(shapes));
        self.meter.restart();
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let started = self.compute.record_event(timed);
        Ok(Session {
            cuda: self,
            started: started.map_err(driver("start the clock"))?,
            _running: running,
        })
    }

    /// Memory for what a step computes, or for a value that steps read.
    pub(super) fn block(&self, bytes: usize) -> Result<Block> {
        block_of(&self.compute, bytes, &self.meter, || self.uploads.empty())
    }
}

impl Session<'_> {
    /// Waits for the end of the run.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) if the GPU has failed.
    pub(crate) fn finish(self) -> Result<GpuStats> {
        let cuda = self.cuda;
        let elapsed = || {
            let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
            let ended = cuda.compute.record_event(timed)?;
            ended.synchronize()?;
            // What failed where no result could be returned: records and frees at the end of arrays.
            cuda.context.check_err()?;
            self.started.elapsed_ms(&ended)
        };
        Ok(GpuStats {
            elapsed_ms: elapsed().map_err(driver("finish"))?.into(),
            peak_memory: cuda.meter.peak(),
            products: cuda.blas.products(),
        })
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda").field("gpu", &self.gpu).finish()
    }
}
