//! Exit codes, decided here and nowhere else.

use crate::diff::Verdict;
use crate::error::Error;
use std::process::ExitCode;

/// Parity holds, or there was nothing to judge.
const HOLDS: u8 = 0;
/// Out of tolerance.
const OUT_OF_TOLERANCE: u8 = 1;
/// Usage, input or output.
const BAD_INPUT: u8 = 2;
/// The device asked for is not there.
const NO_DEVICE: u8 = 3;

/// The code of a verdict.
pub(super) fn of_verdict(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Pass => HOLDS,
        Verdict::Fail => OUT_OF_TOLERANCE,
    })
}

/// The code of an error.
pub(super) fn of_error(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match error.downcast_ref::<Error>() {
        Some(Error::DeviceUnavailable { .. }) => NO_DEVICE,
        _ => BAD_INPUT,
    })
}

/// The code of arguments that clap did not take, or of the help that was asked for.
pub(super) fn of_usage(error: &clap::Error) -> ExitCode {
    ExitCode::from(if error.use_stderr() { BAD_INPUT } else { HOLDS })
}
