//! Steps on this machine's processors.
//!
//! | operation | compute | sum | order of summation | rounding |
//! |---|---|---|---|---|
//! | products | fp32 | fp32 | `matrixmultiply`'s blocking of `k`; partial sums in rank order | once, or once a partial sum; scores also after each operation |
//! | rotary | fp32 | – | – | once, or after each operation |
//! | norms | fp64 | fp64 | 8 interleaved lanes, folded pairwise | once, or also before the weight |
//! | softmax | fp32 | fp64 | ascending keys | once, or after each operation |
//! | element by element | fp32 | – | – | once, or after each operation |
//!
//! Every output element is computed by one thread from one row, so results do not depend on the
//! number of threads or on what else is in the batch. Products differ in their last bits between
//! processors with and without fused multiply-add; everything else is plain IEEE arithmetic and the
//! same everywhere.

mod attention;
mod elementwise;
mod embedding;
mod features;
mod linear;
mod norm;
mod rotary;
mod run;
mod softmax;

pub(crate) use attention::split_heads;
pub(crate) use embedding::gather;
pub use features::cpu_features;
pub use run::Cpu;
