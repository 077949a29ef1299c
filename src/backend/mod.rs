//! Where steps are computed.

mod cpu;
pub(crate) mod cuda;
mod device;
mod features;
mod fp64;
mod gpu;

pub use cpu::Cpu;
pub use cuda::{Compiler, Cuda, CudaArray, CudaSettings, Found, GpuStats, Probe, Product};
pub use device::{AnyBackend, Backend, Device, HostBackend, open};
pub use features::cpu_features;
pub use fp64::Fp64;
pub use gpu::{Gpu, GpuFlags};
