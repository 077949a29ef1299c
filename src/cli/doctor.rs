//! `parity doctor`.

use super::args::DoctorArgs;
use super::print::print;
use crate::backend::{Probe, cpu_features};
use anyhow::Result;
use std::fmt::Write;

pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    let mut text = String::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let features = match cpu_features().as_slice() {
        [] => "portable kernels".to_owned(),
        features => format!("{} kernels", features.join(", ")),
    };
    let _ = writeln!(text, "cpu       {threads} threads, {features}");
    for line in Probe::run(&args.cuda.settings()).lines {
        let (mark, found) = match line.found {
            Ok(found) => ("", found),
            Err(reason) => ("missing: ", reason.to_string()),
        };
        let _ = writeln!(text, "{:<9} {mark}{found}", line.what);
    }
    print(&text)
}
