//! The comparison itself: a model against a golden, or two goldens against each other. Emits
//! events; prints nothing.
//!
//! In the order of a run: `prepare` opens and checks, `align` says what each step is compared with,
//! `inferred` what nobody recorded of the reference's run, `stretch` over which steps a stage is judged;
//! `run` walks over them, `judge` holds their values against what was recorded (with `reference_run`
//! where the reference has another arithmetic, and `routing` where experts were chosen), `explained` looks for causes, `untouched` lists what no
//! comparison depends on, and `outcome` is what came out.

mod align;
mod candidate;
mod comparable;
#[expect(clippy::module_inception, reason = "the verb of the module")]
mod diff;
mod dumps;
mod event;
mod explained;
mod fused;
mod growth;
mod inferred;
mod judge;
mod on_cuda;
mod options;
mod outcome;
mod prepare;
mod reference_run;
mod routing;
mod run;
mod share;
mod stretch;
mod tensors;
mod untouched;

pub use candidate::Candidate;
pub use diff::{diff, diff_candidate, diff_case, diff_paths};
pub use dumps::diff_dumps;
pub use event::Event;
pub use fused::{FusedKernel, fused_kernels};
pub use options::{Modes, Options};
pub use outcome::{CaseOutcome, Coverage, Incomparable, OnGpu, OracleErrors, StageResult, Verdict};
pub use routing::RoutingResult;
pub use share::Share;
pub use stretch::Stretch;
pub use tensors::diff_tensors;
pub use untouched::Untouched;
