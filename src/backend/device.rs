//! The devices there are, and what every backend can do.

use super::Cpu;
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Computes steps. Knows no tolerance and no file.
pub trait Backend: Send + Sync {
    /// Where it computes.
    fn device(&self) -> Device;

    /// Computes one step from its inputs and parameters, in the order the step names them.
    ///
    /// The result has the same bits for any number of threads, any batch a row is computed in and
    /// any number of repetitions.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the backend does not implement the step's numerics to the letter;
    /// [`Error::Mismatch`] if arrays do not fit the step.
    fn run(&self, step: &Step, inputs: &[&Tensor], params: &[&Tensor]) -> Result<Tensor>;
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
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

/// The backend of a device.
///
/// # Errors
/// [`Error::DeviceUnavailable`] with what is missing.
pub fn open(device: Device) -> Result<Box<dyn Backend>> {
    match device {
        Device::Cpu => Ok(Box::new(Cpu)),
        Device::Cuda => Err(Error::DeviceUnavailable {
            device: device.to_string(),
            reason: "no GPU can be used: this version has no CUDA backend".into(),
        }),
    }
}
