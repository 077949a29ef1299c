//! Where steps are computed.

mod cpu;
mod cuda;
mod device;
mod gpu;
mod oracle;

pub use cpu::{Cpu, cpu_features};
pub(crate) use cpu::{gather, split_heads};
pub(crate) use cuda::WORDS;
pub use cuda::{Compiler, Cuda, CudaArray, CudaSettings, Found, GpuStats, Probe, Product};
pub use device::{AnyBackend, Backend, Device, HostBackend, open};
pub use gpu::{Gpu, GpuFlags};
pub use oracle::Oracle;
