//! How far a correct implementation's result may be from the exact one, from the data it computes
//! with.
//!
//! An [`ErrorBound`] has two parts for every element: what rounding to storage types does at most, and
//! how far the order of summation and the last bits of functions move the result, as a standard
//! deviation. Two sides may each be as far off: the [`Budget`](crate::compare::Budget) of a comparison.
//! From the standard deviations alone follows how many half-precision elements may differ at all:
//! [`Flips`](crate::compare::Flips).
//!
//! Whatever a plan evaluates in, frameworks compute norms, softmax and sums in fp32: that is what
//! error bounds are of. Formulas are first order in the unit roundoff `u = 2^-24`, and each is stated
//! where it is evaluated: in the `bound.rs` of an operation.

mod confidence;
mod error_bound;
mod evaluation;
mod operand;
mod running_error;
mod sums;

pub use confidence::Confidence;
pub use error_bound::ErrorBound;
pub(crate) use error_bound::MEAN_OF_NORMAL;
pub(crate) use evaluation::Evaluation;
pub use operand::Operand;
pub(super) use operand::RowBound;
pub(super) use running_error::RunningError;
pub(super) use sums::Sums;

use crate::error::Result;

/// The root mean square of a rounding over the largest that it can be, which standard deviations take each
/// for: an error evenly distributed over a unit in the last place, relative to numbers whose logarithms are,
/// has `√(1/3 · (1 − 1/4)/(2·ln 2))`.
pub(crate) const ROUNDING_RMS: f64 = 0.424_7;

/// How many of its estimated standard deviations a correct implementation may be off. The estimates take
/// every rounding at its largest, where its root mean square is 0.41 of that, so that 3 on each side are
/// some ten true standard deviations of the difference of two results.
pub(crate) const STDS: f64 = 3.0;

/// Unit roundoff of fp32, in which frameworks compute.
pub(crate) const U: f64 = 1.0 / (1_u64 << 24) as f64;

/// How far results of an operation may be off.
pub(crate) trait Bounded {
    /// The error bound of a result, from those of what it was computed from.
    fn error_bound(&self, of: &Evaluation<'_>) -> Result<ErrorBound>;
}
