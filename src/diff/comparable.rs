//! Whether results on a GPU can be held to the bit against what was recorded.

use crate::backend::Gpu;
use crate::golden::Provenance;
use serde_json::Value;

/// The versions of torch whose kernels the backend reproduces: in both the machine code of LayerNorm,
/// softmax and tanh was found to be made of the same instructions.
const TORCH: std::ops::RangeInclusive<(u32, u32)> = (2, 11)..=(2, 15);

/// What keeps results of this GPU from being the recorded ones to the bit, in words; nothing if they
/// have to be.
pub(super) fn differences(provenance: &Provenance, here: &Gpu) -> Vec<String> {
    let Some(gpu) = &provenance.gpu else {
        return vec![match provenance.device.as_str() {
            "cpu" => "the reference was computed on a CPU".into(),
            device => format!("the reference does not say what computed it on {device}"),
        }];
    };
    let mut differences = gpu.differences(here);
    let torch = provenance.torch.as_deref().unwrap_or("unknown");
    if !version(torch).is_some_and(|version| TORCH.contains(&version)) {
        let ((major, from), (_, to)) = (TORCH.start(), TORCH.end());
        differences.push(format!(
            "torch {torch}, where the kernels of {major}.{from} to {major}.{to} are known"
        ));
    }
    if provenance.extra.get("run_to_run_equal") == Some(&Value::Bool(false)) {
        differences.push("the reference differs from run to run".into());
    }
    differences
}

/// `2.11.0+cu130` → (2, 11).
fn version(torch: &str) -> Option<(u32, u32)> {
    let mut parts = torch.split(['.', '+']);
    let mut part = || parts.next()?.parse().ok();
    Some((part()?, part()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::GpuFlags;
    use std::collections::BTreeMap;

    #[test]
    fn only_a_known_run_of_known_kernels_is_comparable() {
        let gpu = Gpu {
            name: "NVIDIA H100".into(),
            compute_capability: "9.0".into(),
            multiprocessors: 132,
            driver: None,
            cublas: Some("13.1.0".into()),
            cublas_sha256: None,
            cublaslt_sha256: None,
            flags: GpuFlags::default(),
            environment: BTreeMap::new(),
        };
        let provenance = |change: fn(&mut Provenance)| {
            let mut provenance = Provenance {
                framework: "transformers".into(),
                device: "NVIDIA H100".into(),
                torch: Some("2.11.0+cu130".into()),
                gpu: Some(gpu.clone()),
                extra: BTreeMap::new(),
            };
            change(&mut provenance);
            differences(&provenance, &gpu)
        };
        assert_eq!(provenance(|_| ()), [""; 0]);
        assert_eq!(
            provenance(|p| (p.device, p.gpu) = ("cpu".into(), None)),
            ["the reference was computed on a CPU"]
        );
        assert_eq!(
            provenance(|p| p.torch = Some("2.3.1".into())),
            ["torch 2.3.1, where the kernels of 2.11 to 2.15 are known"]
        );
        let unequal = provenance(|p| {
            p.extra.insert("run_to_run_equal".into(), false.into());
        });
        assert_eq!(unequal, ["the reference differs from run to run"]);
    }
}
