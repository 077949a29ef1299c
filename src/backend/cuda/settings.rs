//! What a user can say about the GPU.

use std::ffi::OsStr;
use std::path::PathBuf;

/// Where the CUDA libraries are, and how much of the GPU may be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaSettings {
    /// Folders to take cuBLAS, cuBLASLt and NVRTC from, in place of the system's: those of the torch
    /// that made a reference, if results are to be exact.
    pub libraries: Vec<PathBuf>,
    /// The most device memory that arrays may take, in bytes; all there is if `None`.
    pub memory: Option<u64>,
}

impl CudaSettings {
    /// The variable of the environment that names the folders, separated as in `PATH`.
    pub const LIBRARIES: &'static str = "PARITY_CUDA_LIBS";

    /// What the environment says.
    pub fn from_env() -> Self {
        Self::from_folders(&std::env::var_os(Self::LIBRARIES).unwrap_or_default())
    }

    /// Folders separated as in `PATH`.
    pub fn from_folders(folders: &OsStr) -> Self {
        let named = std::env::split_paths(folders).filter(|path| !path.as_os_str().is_empty());
        Self {
            libraries: named.collect(),
            memory: None,
        }
    }
}
