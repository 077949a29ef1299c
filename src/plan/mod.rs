//! A model as plain data: the list of steps that computes it, every numeric choice spelled out.
//!
//! A [`Plan`] knows no device, no file and no tolerance. That two frameworks round at different
//! places is *two plans*, and [`Plan::departures`] reads the differences off them.

mod arithmetic;
mod departure;
mod kernels;
mod numerics;
mod op;
#[expect(clippy::module_inception, reason = "the noun of the module")]
mod plan;
mod rotary;
mod schedule;
mod shape;
mod slopes;
mod stage;
mod step;

pub use arithmetic::{Arithmetic, MegatronArithmetic, TransformersArithmetic};
pub use departure::Departure;
pub use numerics::{Numerics, Rounding, Summation};
pub use op::{Activation, AlibiForm, HeadPart, Mask, Op, QkvLayout};
pub use plan::Plan;
pub use rotary::{Rotary, RotaryPairs};
pub use schedule::Schedule;
pub use stage::StageId;
pub use step::{Form, Param, Step};
