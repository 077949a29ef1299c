//! From arguments to an exit code.

use super::args::{Args, Command};
use super::print::tell;
use super::{convert, diff, doctor, exit, explain, import, inspect, selftest};
use crate::convert::ByteSize;
use crate::error::{BadInput, Result};
use crate::memory;
use crate::tensor::end_where_files_are_cut_short;
use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::OnceLock;

/// The most threads that a machine has use for.
const MOST_THREADS: usize = 1024;

/// Starts as many threads as there are processors, or as `RAYON_NUM_THREADS` says, which the system may refuse.
fn threads() -> Result<()> {
    let name = "RAYON_NUM_THREADS";
    let asked = std::env::var(name).ok().and_then(|text| text.parse().ok());
    let asked: usize = asked.unwrap_or(0);
    if asked > MOST_THREADS {
        let expected = format!("at most {MOST_THREADS} threads");
        return Err(BadInput::new(name, expected, asked.to_string()).into());
    }
    // Once: whoever runs several commands has them already.
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(asked);
        pool.build_global().map_err(|error| error.to_string())
    });
    started.clone().map_err(|error| {
        let expected = "as many threads as there are processors";
        let fault = BadInput::new("threads", expected, error);
        let remedy = format!("allow more processes, or fewer threads ({name}=1)");
        fault.remedy(remedy).into()
    })
}

/// Runs the command line. Reports go to standard output, errors and progress to standard error.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Nothing is left to do if even this cannot be printed.
            let _ = error.print();
            return exit::of_usage(&error);
        }
    };
    end_where_files_are_cut_short();
    if let Some(ByteSize(bytes)) = args.max_memory {
        memory::set_limit(bytes);
    }
    if let Err(error) = threads() {
        tell(&format!("error: {error}"));
        return exit::of_error(&error.into());
    }
    let done = match args.command {
        Command::Diff(args) => diff::run(&args).map(exit::of_verdict),
        Command::Explain(args) => explain::run(&args).map(exit::of_verdict),
        Command::Selftest(args) => selftest::run(&args).map(exit::of_verdict),
        Command::Convert(args) => convert::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Import(args) => import::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Inspect(args) => inspect::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Doctor(args) => doctor::run(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        tell(&format!("error: {error:#}"));
        exit::of_error(&error)
    })
}
