//! Parity as an assertion, for `cargo test`.

use crate::case::CaseFile;
use crate::diff::{Options, Verdict, diff_case};
use crate::report::{Detail, Format};
use std::path::Path;

/// Panics, with the report and with what explains it, unless the case holds on the CPU in both modes.
///
/// ```
/// parity::assert_parity("cases/bloom_fp32_tp1.toml");
/// ```
///
/// # Panics
/// If a stage is out of tolerance, or the case cannot be run.
#[track_caller]
pub fn assert_parity(case: impl AsRef<Path>) {
    let options = Options {
        explain: true,
        ..Options::default()
    };
    assert_parity_with(case, &options);
}

/// Panics, with the report, unless the case holds on the device, in the modes and at the stages
/// that `options` name.
///
/// # Panics
/// If a stage is out of tolerance, or the case cannot be run.
#[track_caller]
pub fn assert_parity_with(case: impl AsRef<Path>, options: &Options) {
    let case = case.as_ref();
    let outcome = CaseFile::open(case).and_then(|case| diff_case(&case, options, &mut |_| {}));
    match outcome {
        Ok(outcome) if outcome.verdict() == Verdict::Pass => {}
        Ok(outcome) => {
            let report = Format::Terminal.render(&[outcome], Detail::Stages);
            panic!("no parity\n{}", anstream::adapter::strip_str(&report));
        }
        Err(error) => panic!("{} cannot be run: {error}", case.display()),
    }
}
