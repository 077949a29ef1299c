//! Which products were asked of the libraries, and what these chose.

use serde::Serialize;

/// A matrix product, as often as it was computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Product {
    /// The function called, with what sets it apart: `cublasLtMatmul, bias in the epilogue`.
    pub call: String,
    /// Extents in the libraries' column-major terms.
    pub m: usize,
    /// As [`Self::m`].
    pub n: usize,
    /// The length of the sums.
    pub k: usize,
    /// Products in one call.
    pub batch: usize,
    /// What cuBLASLt's heuristic chose, by its own numbers; cuBLAS does not tell.
    pub algorithm: Option<String>,
    /// How often it was called.
    pub calls: usize,
}
