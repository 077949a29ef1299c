//! What LayerNorm and RMSNorm share.

mod bound;
mod cpu;
mod cuda;
mod fp64;

pub(super) use cuda::{MOST_COLUMNS, launch_norm};

/// `(x − mean) / sqrt(var + eps) · weight + bias` of rows as long as the weight.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    /// Added to the variance.
    pub(super) eps: f64,
    /// Whether the mean is taken off first.
    pub(super) centred: bool,
}
