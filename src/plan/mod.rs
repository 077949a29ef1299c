//! A model as plain data: the list of steps that computes it, every numeric choice spelled out.
//!
//! A [`Plan`] knows no device, no file and no tolerance. That two frameworks round at different
//! places is *two plans*, and [`Plan::differences`] reads the differences off them.

mod arithmetic;
mod error_bound;
mod kernels;
#[expect(clippy::module_inception, reason = "the noun of the module")]
mod plan;
mod plan_difference;
mod schedule;
mod shape;
mod slopes;
mod stage;
mod step;

pub use arithmetic::{Arithmetic, MegatronArithmetic, TransformersArithmetic};
pub use plan::Plan;
pub use plan_difference::PlanDifference;
pub use schedule::Schedule;
pub use stage::StageId;
pub use step::{Param, Step, Variant};
