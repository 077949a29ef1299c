//! Operations in fp64, rounded nowhere: what every framework approximates.

use super::Arguments;
use crate::error::Result;

/// The exact result of an operation, to fp64's roundoff.
pub(crate) trait Fp64Kernel {
    /// The result of inputs and parameters that were widened to fp64 (token ids stay what they are).
    fn fp64(&self, arguments: &Arguments<'_>) -> Result<Vec<f64>>;
}
