//! Steps on an NVIDIA GPU, with the bits of the PyTorch run that made the reference.
//!
//! | operation | computed by | order of summation | rounding |
//! |---|---|---|---|
//! | products | cuBLAS and cuBLASLt, called as PyTorch calls them (`blas.rs`) | the library's, fp32 | once; partial sums once each |
//! | norms, softmax | `layer_norm.cu`, `softmax.cu`, …, fp32 | the tree of PyTorch's kernel, or of Megatron's fused one | once |
//! | everything else | `elementwise.cu`, …, fp32 | – | once, or after each operation |
//!
//! Kernels are CUDA C++ in `kernels/`, compiled for the GPU at hand when it is first used
//! (`compiler.rs`). Nothing is needed to build this crate; what is needed to run is looked for by
//! `probe.rs` before anything else is called.
//!
//! Steps are sent to the GPU without waiting for them. Parameters and recorded values go up through
//! pinned buffers on a stream of their own while earlier steps run (`transfer.rs`), into memory for two
//! layers of them (`memory.rs`).

mod access;
mod array;
mod attention;
mod blas;
mod compiler;
#[expect(clippy::module_inception, reason = "the noun of the module")]
mod cuda;
mod elementwise;
mod embedding;
mod failure;
mod gemm;
mod launch;
mod library;
mod linear;
mod lt;
mod memory;
mod norm;
mod probe;
mod product;
mod rotary;
mod run;
mod segments;
mod settings;
mod softmax;
mod transfer;

pub use array::CudaArray;
pub use compiler::Compiler;
pub use cuda::{Cuda, GpuStats};
pub use probe::{Found, Probe};
pub use product::Product;
pub(crate) use segments::WORDS;
pub use settings::CudaSettings;
