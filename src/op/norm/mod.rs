//! What LayerNorm and RMSNorm share.

mod bound;
mod cpu;
mod fp64;

/// `(x − mean) / sqrt(var + eps) · weight + bias` of rows as long as the weight.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    /// Added to the variance.
    pub(super) eps: f64,
    /// Whether the mean is taken off first.
    pub(super) centred: bool,
}
