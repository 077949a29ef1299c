//! The devices there are, and what every backend can do.

use super::{Cpu, Cuda, CudaSettings};
use crate::error::Result;
use crate::plan::Step;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Computes steps. Knows no tolerance and no file.
pub trait Backend: Send + Sync {
    /// An array where the backend computes. Cloning shares the data.
    type Array: Clone;

    /// Where it computes.
    fn device(&self) -> Device;

    /// Brings an array to where the backend computes. It may still be on its way when this returns;
    /// steps wait for it by themselves.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) if the device has no
    /// memory for it or is lost.
    fn upload(&self, tensor: &Tensor) -> Result<Self::Array>;

    /// Brings an array back. Waits for the steps that compute it.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) if a step before has
    /// failed or the device is lost.
    fn download(&self, array: &Self::Array) -> Result<Tensor>;

    /// Computes one step from its inputs and parameters, in the order the step names them. May return
    /// before the result is there.
    ///
    /// The result has the same bits for any number of threads, any batch a row is computed in and
    /// any number of repetitions; where a library chooses the kernel by the shape, as cuBLAS does,
    /// for the same batch.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if the backend does not implement the
    /// step's numerics to the letter; [`Error::Mismatch`](crate::Error::Mismatch) if arrays do not
    /// fit the step; [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) as
    /// [`Self::upload`].
    fn run(
        &self,
        step: &Step,
        inputs: &[&Self::Array],
        params: &[&Self::Array],
    ) -> Result<Self::Array>;
}

/// A backend that computes on arrays of this process.
pub type HostBackend = dyn Backend<Array = Tensor>;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// This machine's processors.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

impl Device {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Cuda];
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// A backend that is ready to compute.
#[derive(Clone, Debug)]
pub enum AnyBackend {
    /// The CPU's.
    Cpu(Cpu),
    /// A GPU's.
    Cuda(Arc<Cuda>),
}

impl AnyBackend {
    /// Where it computes.
    pub fn device(&self) -> Device {
        match self {
            Self::Cpu(cpu) => cpu.device(),
            Self::Cuda(cuda) => cuda.device(),
        }
    }
}

impl Default for AnyBackend {
    /// The CPU's.
    fn default() -> Self {
        Self::Cpu(Cpu)
    }
}

/// The backend of a device.
///
/// # Errors
/// [`Error::DeviceUnavailable`](crate::Error::DeviceUnavailable) with what is missing.
pub fn open(device: Device, settings: &CudaSettings) -> Result<AnyBackend> {
    match device {
        Device::Cpu => Ok(AnyBackend::Cpu(Cpu)),
        Device::Cuda => Ok(AnyBackend::Cuda(Arc::new(Cuda::open(settings)?))),
    }
}
