//! The `parity` command; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    parity::cli::run(std::env::args_os())
}
