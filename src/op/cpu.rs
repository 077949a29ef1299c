//! Operations on this machine's processors.
//!
//! Every output element is computed by one thread from one row, so results do not depend on the
//! number of threads or on what else is in the batch. Products are summed in the order of
//! `matrixmultiply`'s blocking and differ in their last bits between processors with and without
//! fused multiply-add; everything else is plain IEEE arithmetic and the same everywhere.

use super::{Arguments, Numerics, Rounding};
use crate::error::Result;
use crate::tensor::Float;

/// The CPU's kernel of an operation. Its documentation says in what types and order it sums.
pub(crate) trait CpuKernel {
    /// Whether the kernel computes in these numerics, to the letter.
    fn cpu_implements(&self, numerics: Numerics) -> bool;

    /// The result, stored as `T`, in numerics that the kernel implements, rounded where `rounding` says.
    fn cpu<T: Float>(&self, arguments: &Arguments<'_>, rounding: Rounding) -> Result<Vec<T>>
    where
        Self: Sized;
}
