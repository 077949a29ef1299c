//! A GPU: its memory, what goes to it and comes back, its libraries, and the launching of kernels. What
//! is launched for an operation is the operation's to say (`op/*/cuda.rs`).
//!
//! | operation | computed by | order of summation | rounding |
//! |---|---|---|---|
//! | products | cuBLAS and cuBLASLt, called as PyTorch calls them (`blas.rs`) | the library's, fp32 | once; partial sums once each |
//! | norms, softmax | kernels in fp32 | the tree of PyTorch's kernel, or of Megatron's fused one | once |
//! | everything else | kernels in fp32 | – | once, or after each operation |
//!
//! Kernels are CUDA C++ beside their operations, compiled as one source for the GPU at hand when they
//! are first used (`compiler.rs`). Nothing is needed to build this crate; what is needed to run is
//! looked for by `probe.rs` before anything else is called.
//!
//! Steps are sent to the GPU without waiting for them. Parameters and recorded values go up through
//! pinned buffers on a stream of their own while earlier steps run (`transfer.rs`), into memory for two
//! layers of them (`memory.rs`).

mod access;
mod array;
mod blas;
mod compiler;
#[expect(clippy::module_inception, reason = "the noun of the module")]
mod cuda;
mod failure;
mod gemm;
mod kernel;
mod launch;
mod library;
mod lt;
mod memory;
mod probe;
mod product;
mod readback;
mod run;
mod settings;
mod transfer;

pub use array::CudaArray;
pub(crate) use array::Layout;
pub use compiler::Compiler;
pub use cuda::{Cuda, GpuStats};
pub(crate) use gemm::{Gemm, Operand};
pub(crate) use kernel::{Arg, Kernel, Source};
pub(crate) use launch::Grid;
pub use probe::{Found, Probe};
pub use product::Product;
pub(crate) use readback::CudaWords;
pub use settings::CudaSettings;
