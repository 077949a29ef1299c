//! Where steps are computed.

mod cpu;
pub(crate) mod cuda;
mod device;
pub(crate) mod formula;
mod functions;
mod gpu;
mod oracle;

pub use cpu::{Cpu, cpu_features};
pub(crate) use cpu::{gather, split_heads};
pub use cuda::{Compiler, Cuda, CudaArray, CudaSettings, Found, GpuStats, Probe, Product};
pub use device::{AnyBackend, Backend, Device, HostBackend, open};
pub use gpu::{Gpu, GpuFlags};
pub use oracle::Oracle;
