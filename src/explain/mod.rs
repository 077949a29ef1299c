//! Why a stage differs.
//!
//! A [`Subgraph`] is the part of the model that leads from recorded values to one recorded value. A
//! hypothesis of the catalogue is a small rewrite of it: another order of rows, another epsilon,
//! another mask. [`explain`] runs the rewritten subgraphs on the recorded inputs and accepts what
//! brings the difference back within the rounding budget.
//!
//! Knows no golden, no case and no report.

mod catalogue;
mod context;
mod evidence;
#[expect(clippy::module_inception, reason = "the verb of the module")]
mod explain;
mod explanation;
mod fit;
mod hints;
mod rearrange;
mod rewrite;
mod steps;
mod subgraph;

pub use context::Context;
pub use evidence::Evidence;
pub use explain::{OwnArithmetic, explain, hypotheses};
pub use explanation::{Cause, Explanation};
pub use rewrite::Certainty;
pub use subgraph::Subgraph;
