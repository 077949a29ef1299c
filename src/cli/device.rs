//! From the device that is asked for to the backend that computes.

use super::args::{DeviceArgs, DeviceName};
use super::print::tell;
use crate::backend::{AnyBackend, CudaSettings, Device, open};
use anyhow::Result;

impl DeviceArgs {
    /// Opens the device; what `auto` chose is said on standard error.
    pub(super) fn open(&self) -> Result<AnyBackend> {
        let settings = CudaSettings {
            memory: self.gpu_memory.map(|size| size.0),
            ..self.cuda.settings()
        };
        match self.device {
            DeviceName::Cpu => Ok(open(Device::Cpu, &settings)?),
            DeviceName::Cuda => Ok(open(Device::Cuda, &settings)?),
            DeviceName::Auto => match open(Device::Cuda, &settings) {
                Ok(opened) => {
                    if let AnyBackend::Cuda(cuda) = &opened {
                        tell(&format!("running on {}", cuda.gpu()));
                    }
                    Ok(opened)
                }
                Err(reason) => {
                    tell(&format!("running on the CPU: {reason}"));
                    Ok(open(Device::Cpu, &settings)?)
                }
            },
        }
    }
}
