//! `parity doctor`.

use super::args::DoctorArgs;
use super::print::print;
use crate::backend::{Cuda, Probe, cpu_features};
use crate::diff::{FusedKernel, fused_kernels};
use anyhow::Result;
use std::fmt::Write;

pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    let settings = args.cuda.settings();
    let mut text = String::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let features = match cpu_features().as_slice() {
        [] => "portable kernels".to_owned(),
        features => format!("{} kernels", features.join(", ")),
    };
    let _ = writeln!(text, "cpu       {threads} threads, {features}");
    let mut all_found = true;
    for line in Probe::run(&settings).lines {
        all_found &= line.found.is_ok();
        let (mark, found) = match line.found {
            Ok(found) => ("", found),
            Err(reason) => ("missing: ", reason.to_string()),
        };
        let _ = writeln!(text, "{:<9} {mark}{found}", line.what);
    }
    match Cuda::open(&settings).and_then(|cuda| fused_kernels(&cuda)) {
        Ok(kernels) => {
            for kernel in kernels {
                let _ = writeln!(text, "fused     {}", fused(&kernel));
            }
        }
        Err(reason) if all_found => {
            let _ = writeln!(text, "unusable  {reason}");
        }
        // What is missing has been said.
        Err(_) => {}
    }
    print(&text)
}

/// `Megatron's layer norm in bf16: 3 of 65536 elements differ from torch's, by 1 ulp at most`.
fn fused(kernel: &FusedKernel) -> String {
    let FusedKernel {
        what,
        dtype,
        metrics,
    } = kernel;
    let found = match (metrics.unequal, metrics.max_ulp) {
        (0, _) => "exactly torch's".to_owned(),
        (unequal, ulp) => format!(
            "{unequal} of {} elements differ from torch's, by {} ulp at most",
            metrics.elements,
            ulp.unwrap_or_default()
        ),
    };
    format!("Megatron's {what} in {dtype}: {found}")
}
