//! What to compare with what, and how closely: case files and tolerance rules.

#[expect(clippy::module_inception, reason = "the noun of the module")]
mod case;
mod context;
mod defaults;
mod dumps;
mod file;
mod mode;
mod pattern;
mod rules;

pub use case::{ArithmeticName, Case};
pub use context::{ResolvedTolerance, ToleranceContext};
pub(crate) use defaults::{after_a_block, two_digits};
pub use dumps::DumpCase;
pub use file::{CaseFile, parse as parse_case_file};
pub use mode::Mode;
pub use pattern::Pattern;
pub use rules::{Rule, Rules};
