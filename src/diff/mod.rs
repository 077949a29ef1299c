//! The comparison itself: a model against a golden, or two goldens against each other. Emits
//! events; prints nothing.

mod candidate;
mod check;
mod comparable;
mod dumps;
mod event;
mod explained;
mod fused;
mod lane;
mod model;
mod on_cuda;
mod options;
mod outcome;
mod records;
mod reference;
mod run;
mod witness;

pub use candidate::Candidate;
pub use dumps::diff_dumps;
pub use event::Event;
pub use fused::{FusedKernel, fused_kernels};
pub use model::{diff, diff_candidate};
pub use options::{Modes, Options};
pub use outcome::{CaseOutcome, Coverage, OnGpu, OracleErrors, StageResult, Verdict};
