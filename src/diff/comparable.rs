//! Whether results on a GPU can be held to the bit against what was recorded.

use crate::backend::Gpu;
use crate::golden::{Manifest, Provenance, major_minor};
use crate::plan::Arithmetic;
use serde_json::Value;

/// The version of torch whose kernels and calls of cuBLAS the backend reproduces. Later ones are known
/// to give cuBLASLt other workspaces.
const TORCH: (u32, u32) = (2, 11);

/// What keeps a run in this arithmetic on this GPU from giving the recorded bits, in words; nothing if it
/// has to give them.
pub(super) fn differences(manifest: &Manifest, ours: &Arithmetic, here: &Gpu) -> Vec<String> {
    let provenance = &manifest.provenance;
    let Some(gpu) = &provenance.gpu else {
        return vec![match provenance.device.as_str() {
            "cpu" => "the reference was computed on a CPU".into(),
            device => format!("the reference does not say what computed it on {device}"),
        }];
    };
    let theirs = &manifest.arithmetic;
    let mut differences = gpu.differences(here);
    match theirs {
        // Its operands have other layouts, and its fused GELU and residual adds round once.
        Arithmetic::Megatron(_) => differences.push(format!(
            "{theirs} arithmetic, whose products and fused operations on a GPU are not reproduced"
        )),
        Arithmetic::Transformers(_) if theirs != ours => {
            differences.push(format!("{theirs} arithmetic, here {ours}"));
        }
        Arithmetic::Transformers(_) => {}
    }
    differences.extend(of_run(provenance));
    differences
}

/// What about the recorded run itself cannot be reproduced here.
fn of_run(provenance: &Provenance) -> Vec<String> {
    let mut differences = Vec::new();
    let torch = provenance
        .torch
        .as_deref()
        .unwrap_or("of an unknown version");
    if major_minor(torch) != Some(TORCH) {
        let (major, minor) = TORCH;
        differences.push(format!(
            "torch {torch}, where the kernels and calls of {major}.{minor} are known"
        ));
    }
    let extra = &provenance.extra;
    if extra.get("run_to_run_equal") == Some(&Value::Bool(false)) {
        differences.push("the reference differs from run to run".into());
    }
    let autocast = provenance.numerics.get("autocast") == Some(&Value::Bool(true));
    if autocast || provenance.autocast.is_some() {
        differences.push("autocast".into());
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_run_is_comparable() {
        let of = |torch: &str, extra: &[(&str, Value)], autocast: bool| {
            of_run(&Provenance {
                torch: Some(torch.into()),
                numerics: [("autocast".to_owned(), autocast.into())].into(),
                extra: extra
                    .iter()
                    .map(|(key, value)| (key.to_string(), value.clone()))
                    .collect(),
                ..Provenance::default()
            })
        };
        assert_eq!(
            of("2.11.0+cu130", &[("run_to_run_equal", true.into())], false),
            [""; 0]
        );
        let other = "torch 2.3.1, where the kernels and calls of 2.11 are known";
        assert_eq!(of("2.3.1", &[], false), [other]);
        let unequal = ("run_to_run_equal", false.into());
        assert_eq!(
            of("2.11.0", &[unequal], false),
            ["the reference differs from run to run"]
        );
        assert_eq!(of("2.11.0", &[], true), ["autocast"]);
    }
}
