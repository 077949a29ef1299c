//! Why a stage differs.
//!
//! A [`Subgraph`] is the part of the model that leads from recorded values to one recorded value. A
//! [`Rule`] knows one thing that goes wrong, as small rewrites of it: another order of rows, another
//! epsilon, another mask. [`explain`] runs the rewritten subgraphs on the recorded inputs and accepts
//! what brings the difference back within the rounding budget. A rule also has the [`Bug`]s that it
//! has to recognise, which can be put into any model.
//!
//! Knows no golden, no case and no report.

mod bug;
mod context;
mod evidence;
#[expect(clippy::module_inception, reason = "the verb of the module")]
mod explain;
mod explanation;
mod fit;
mod hints;
mod modules;
mod rearrange;
mod rewrite;
mod rule;
mod rules;
mod steps;
mod subgraph;

pub use bug::{Bug, Injected, StepEdit};
pub use context::Context;
pub use evidence::Evidence;
pub use explain::{OwnArithmetic, explain, rules};
pub use explanation::{Cause, Exchanged, Explanation};
pub use rewrite::{Certainty, Rewrite};
pub use rule::Rule;
pub use subgraph::Subgraph;
