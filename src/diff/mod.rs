//! The comparison itself: a model against a golden, or two goldens against each other. Emits
//! events; prints nothing.

mod candidate;
mod dumps;
mod event;
mod model;
mod options;
mod outcome;
mod reference;

pub use dumps::diff_dumps;
pub use event::Event;
pub use model::diff;
pub use options::{Modes, Options};
pub use outcome::{CaseOutcome, Coverage, StageResult, Verdict};
