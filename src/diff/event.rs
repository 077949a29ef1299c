//! What a run tells while it runs.

use super::StageResult;

/// Something happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A case begins.
    Started {
        /// Its name.
        case: &'a str,
        /// How many steps it takes.
        steps: usize,
    },
    /// A step begins.
    Step {
        /// Its id.
        id: &'a str,
    },
    /// The search for the cause of a failing stage begins.
    Explaining {
        /// The stage.
        stage: &'a str,
        /// How many hypotheses are tried.
        hypotheses: usize,
    },
    /// A hypothesis has been tried.
    Tried,
    /// A deliberate bug is tried on the case.
    Injecting {
        /// Its name.
        bug: &'a str,
        /// Its place among them.
        number: usize,
        /// How many there are.
        of: usize,
    },
    /// A stage has been judged.
    Judged(&'a StageResult),
    /// The case is done.
    Finished,
}
