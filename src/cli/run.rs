//! From arguments to an exit code.

use super::args::{Args, Command};
use super::{convert, diff, doctor, exit, explain, import, inspect, selftest};
use crate::tensor::end_where_files_are_cut_short;
use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

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
        anstream::eprintln!("error: {error:#}");
        exit::of_error(&error)
    })
}
