//! Running a plan: all of it, or the part that leads from given values to wanted ones, on any backend,
//! with or without error bounds.
//!
//! The candidate, the reference's arithmetic, fp64 and the subgraphs of `explain` are all executions; they
//! differ in the steps they take, the backend, and which values they are given.

mod execution;
mod padding;
mod start;
mod value;

pub use execution::Execution;
pub use padding::Padding;
pub use start::start;
pub use value::Value;

use crate::checkpoint::Weights;
use crate::error::Result;
use crate::plan::Step;
use crate::tensor::Tensor;

/// Reads the parameters of a step, in the order its operation names them.
///
/// # Errors
/// As [`Weights::load`].
pub fn params_of(step: &Step, weights: &dyn Weights) -> Result<Vec<Tensor>> {
    let params = step.params.iter();
    params.map(|param| weights.load(&param.name)).collect()
}
