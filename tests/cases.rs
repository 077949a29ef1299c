//! Every case in `cases/` (in a full run those of `cases/full/`, too) on every device in every mode, as a test of its own:
//! `bloom_fp32_tp1::cpu::isolated`. A device that is not there, or has no kernel for a step of the
//! model, is reported as ignored, with the reason in the test's kind.

use libtest_mimic::{Arguments, Failed, Trial};
use parity::Error;
use parity::backend::{self, AnyBackend, CudaSettings, Device};
use parity::case::CaseFile;
use parity::diff::{Modes, Options, Verdict, diff_case};
use parity::report::{Detail, Format};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut cases = cases_of(&folder);
    if std::env::var_os("PARITY_FULL").is_some_and(|value| value == "1") {
        cases.extend(cases_of(&folder.join("full")));
    }
    assert!(!cases.is_empty(), "no case in {}", folder.display());
    let devices =
        Device::ALL.map(|device| (device, backend::open(device, &CudaSettings::from_env())));
    let trials = cases.iter().flat_map(|case| {
        devices.iter().flat_map(move |(device, opened)| {
            [(Modes::Isolated, "isolated"), (Modes::Chained, "chained")]
                .into_iter()
                .map(move |(modes, mode)| trial(case, *device, opened, modes, mode))
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn cases_of(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().expect("a folder of cases");
    let paths = entries.map(|entry| entry.expect("an entry of the folder").path());
    let toml = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "toml");
    let mut cases: Vec<PathBuf> = paths.filter(toml).collect();
    cases.sort();
    cases
}

fn trial(
    case: &Path,
    device: Device,
    opened: &parity::Result<AnyBackend>,
    modes: Modes,
    mode: &str,
) -> Trial {
    let name = case.file_stem().expect("a file name").to_string_lossy();
    let name = format!("{name}::{device}::{mode}");
    match opened {
        Ok(opened) if device == Device::Cpu => {
            let (case, opened) = (case.to_owned(), opened.clone());
            Trial::test(name, move || Ok(run(&case, opened, modes)??))
        }
        // Only a run tells whether there are kernels for all of its steps.
        Ok(opened) => match run(case, opened.clone(), modes) {
            Err(reason @ Error::Unsupported { .. }) => ignored(name, &reason),
            ran => Trial::test(name, move || Ok(ran??)),
        },
        Err(reason) => ignored(name, reason),
    }
}

fn ignored(name: String, reason: &Error) -> Trial {
    let reason = reason.to_string();
    let failed = Failed::from(reason.clone());
    Trial::test(name, || Err(failed))
        .with_kind(reason)
        .with_ignored_flag(true)
}

/// The inner error is the report of a run that fails.
fn run(case: &Path, backend: AnyBackend, modes: Modes) -> parity::Result<Result<(), String>> {
    let options = Options {
        backend,
        modes,
        ..Options::default()
    };
    let outcome = diff_case(&CaseFile::open(case)?, &options, &mut |_| {})?;
    match outcome.verdict() {
        Verdict::Pass => Ok(Ok(())),
        Verdict::Fail => {
            let report = Format::Terminal.render(&[outcome], Detail::Stages);
            Ok(Err(anstream::adapter::strip_str(&report).to_string()))
        }
    }
}
