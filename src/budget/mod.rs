//! How far apart two correct implementations of a step may be, from the data they compute with.
//!
//! A [`Deviation`] says of every element of a value how far a correct implementation may be from
//! the exact result: what rounding to storage types does at most, and how widely the order of
//! summation and the last bits of functions spread it. Two sides may each spend theirs: the
//! [`Budget`] of a comparison. From the spreads alone follows how many half-precision elements may
//! differ at all: [`Flips`].
//!
//! Whatever a plan evaluates in, frameworks compute norms, softmax and sums in fp32: that is what
//! deviations are of. Formulas are first order in the unit roundoff `u = 2^-24`, and each is stated
//! where it is evaluated.
//!
//! Knows no model, no file and no tolerance.

mod carried;
mod deviation;
mod flips;
mod product;
mod row;
mod step;

pub use deviation::{Budget, Confidence, Deviation};
pub use flips::Flips;
pub use step::{Operand, deviation};

/// Unit roundoff of fp32, in which frameworks compute.
const U: f64 = 1.0 / (1_u64 << 24) as f64;
