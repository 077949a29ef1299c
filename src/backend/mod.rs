//! Where steps are computed.

mod cpu;
mod cuda;
mod device;
pub(crate) mod formula;
mod functions;
mod gpu;
mod oracle;

pub use cpu::{Cpu, cpu_features};
pub(crate) use cpu::{gather, split_heads};
pub use cuda::{Compiler, Cuda, CudaArray, CudaSegments, CudaSettings, Found, Probe, Product};
pub use device::{Backend, Device, Host, Opened, open};
pub use gpu::{Gpu, GpuFlags};
pub use oracle::Oracle;
