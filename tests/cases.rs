//! Every case in `cases/` on every device in every mode, as a test of its own:
//! `bloom_fp32_tp1::cpu::isolated`. A device that is not there is reported as ignored, with the
//! reason in the test's kind.

use libtest_mimic::{Arguments, Failed, Trial};
use parity::backend::{self, AnyBackend, CudaSettings, Device};
use parity::case::Case;
use parity::diff::{Modes, Options, Verdict, diff};
use parity::report::{Detail, Format};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut cases: Vec<PathBuf> = folder
        .read_dir()
        .expect("the folder of cases")
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    cases.sort();
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
        Ok(opened) => {
            let (case, opened) = (case.to_owned(), opened.clone());
            Trial::test(name, move || run(&case, opened, modes))
        }
        Err(reason) => {
            let reason = reason.to_string();
            let failed = Failed::from(reason.clone());
            Trial::test(name, || Err(failed))
                .with_kind(reason)
                .with_ignored_flag(true)
        }
    }
}

fn run(case: &Path, backend: AnyBackend, modes: Modes) -> Result<(), Failed> {
    let options = Options {
        backend,
        modes,
        ..Options::default()
    };
    let outcome = diff(&Case::open(case)?, &options, &mut |_| {})?;
    match outcome.verdict() {
        Verdict::Pass => Ok(()),
        Verdict::Fail => {
            let report = Format::Terminal.render(&[outcome], Detail::Stages);
            Err(anstream::adapter::strip_str(&report).to_string().into())
        }
    }
}
