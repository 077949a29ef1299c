//! What to run of a case.

use super::Share;
use crate::backend::AnyBackend;
use crate::case::{Mode, Pattern};
use crate::op::Confidence;

/// What to run of a case.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where.
    pub backend: AnyBackend,
    /// In which modes.
    pub modes: Modes,
    /// Which stages are compared.
    pub stages: Pattern,
    /// How sure rounding budgets are.
    pub confidence: Confidence,
    /// Whether both sides are held against the same plan in fp64.
    pub oracle: bool,
    /// Whether stages that fail on the reference's own inputs are explained.
    pub explain: bool,
    /// Whether to stop at the first stage that fails.
    pub fail_fast: bool,
    /// Of the stages that the golden holds, the share that has to be compared.
    pub coverage: Share,
}

/// One mode or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Modes {
    /// Every stage on the reference's inputs.
    Isolated,
    /// Every stage on our own earlier stages.
    Chained,
    /// Both, in one run over the weights.
    Both,
}

impl Modes {
    /// The modes, the one that localises first.
    pub fn list(self) -> &'static [Mode] {
        match self {
            Self::Isolated => &[Mode::Isolated],
            Self::Chained => &[Mode::Chained],
            Self::Both => &[Mode::Isolated, Mode::Chained],
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: AnyBackend::default(),
            modes: Modes::Both,
            stages: Pattern::all(),
            confidence: Confidence::default(),
            oracle: false,
            explain: false,
            fail_fast: false,
            coverage: Share::NONE,
        }
    }
}
