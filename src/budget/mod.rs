//! How far apart two correct implementations of a step may be, from the data they compute with.
//!
//! A [`ErrorBound`] says of every element of a value how far a correct implementation may be from
//! the exact result: what rounding to storage types does at most, and how widely the order of
//! summation and the last bits of functions standard deviation it. Two sides may each spend theirs: the
//! [`Budget`] of a comparison. From the stds alone follows how many half-precision elements may
//! differ at all: [`Flips`].
//!
//! Whatever a plan evaluates in, frameworks compute norms, softmax and sums in fp32: that is what
//! error bounds are of. Formulas are first order in the unit roundoff `u = 2^-24`, and each is stated
//! where it is evaluated.
//!
//! Knows no model, no file and no tolerance.

mod error_bound;
mod flips;
mod product;
mod row;
mod running_error;
mod step;

pub use error_bound::{Budget, Confidence, ErrorBound};
pub use flips::Flips;
pub use step::{Operand, error_bound};

/// Unit roundoff of fp32, in which frameworks compute.
const U: f64 = 1.0 / (1_u64 << 24) as f64;
