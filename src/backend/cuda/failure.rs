//! What is said when a GPU or a library of it fails.

use crate::backend::Device;
use crate::error::{Error, Result};
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use std::ffi::c_int;

/// The device cannot be used, or not any more.
pub(super) fn unavailable(reason: impl Into<String>) -> Error {
    Error::DeviceUnavailable {
        device: Device::Cuda.to_string(),
        reason: reason.into(),
    }
}

/// The driver refused. `doing` is what it was asked for, as a verb phrase.
pub(super) fn driver(doing: &str) -> impl FnOnce(DriverError) -> Error {
    move |error| {
        let remedy = match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                "free memory of the GPU, or use --gpu-memory or --device cpu"
            }
            CUresult::CUDA_ERROR_NO_DEVICE => "no GPU is visible to this process",
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_INVALID_IMAGE => {
                "NVRTC is newer than the driver: name libraries of the driver's version with --cuda-libs"
            }
            _ => "the GPU may be lost: see nvidia-smi, and run again",
        };
        let said = error.error_string().map(|text| text.to_string_lossy());
        let said = said.unwrap_or("an error that the driver has no words for".into());
        unavailable(format!("cannot {doing}: {said} ({:?}); {remedy}", error.0))
    }
}

/// What a status of cuBLAS or cuBLASLt means (`cublasStatus_t`). `doing` is what it was asked for.
pub(super) fn cublas(status: c_int, doing: &str) -> Result<()> {
    let name = match status {
        0 => return Ok(()),
        1 => "not initialized",
        3 => "allocation failed",
        7 => "invalid value",
        8 => "the GPU is too old",
        11 => "mapping error",
        13 => "execution failed",
        14 => "internal error",
        15 => "not supported",
        _ => "unknown",
    };
    Err(unavailable(format!(
        "cuBLAS failed ({doing}: status {status}, {name}); the GPU may be lost or full: see nvidia-smi, \
         and run again"
    )))
}
