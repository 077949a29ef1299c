//! A GPU and the libraries on it, as far as they decide what its results are to the bit.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What made results on a GPU, recorded in a golden or found by the probe.
///
/// Two runs of the same operations have the same bits if the compute capability, the number of
/// multiprocessors, cuBLAS and the settings are the same: cuBLAS chooses its kernels by these and
/// promises the same result from run to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// The product's name.
    pub name: String,
    /// `9.0` of a Hopper.
    pub compute_capability: String,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// The driver's version. Results do not depend on it.
    #[serde(default)]
    pub driver: Option<String>,
    /// cuBLAS's version: major, minor, patch.
    #[serde(default)]
    pub cublas: Option<String>,
    /// SHA-256 of the libcublas that was loaded.
    #[serde(default)]
    pub cublas_sha256: Option<String>,
    /// SHA-256 of the libcublasLt that was loaded.
    #[serde(default)]
    pub cublaslt_sha256: Option<String>,
    /// torch's settings.
    #[serde(default)]
    pub flags: GpuFlags,
    /// Variables of the environment that change what libraries compute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// torch's settings of matrix products on a GPU (`torch.backends.cuda`), under its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuFlags {
    /// fp32 products through TF32.
    pub allow_tf32: bool,
    /// fp16 products may add partial sums in fp16.
    pub allow_fp16_reduced_precision_reduction: bool,
    /// bf16 products may add partial sums in bf16.
    pub allow_bf16_reduced_precision_reduction: bool,
    /// fp16 products may accumulate in fp16.
    pub allow_fp16_accumulation: bool,
    /// The library that torch was told to prefer; `default` if none.
    pub preferred_blas_library: String,
    /// Whether TunableOp chose the kernels.
    pub tunable_op: bool,
}

impl Default for GpuFlags {
    /// torch's defaults.
    fn default() -> Self {
        Self {
            allow_tf32: false,
            allow_fp16_reduced_precision_reduction: true,
            allow_bf16_reduced_precision_reduction: true,
            allow_fp16_accumulation: false,
            preferred_blas_library: "default".into(),
            tunable_op: false,
        }
    }
}

/// Variables that cuBLAS reads itself, so that they have to be set the same here.
const READ_BY_CUBLAS: [&str; 3] = [
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATION_STRATEGY",
];
/// Variables of torch that nothing else recorded shows, and that a run here does not take over.
const READ_BY_TORCH: [&str; 1] = ["TORCH_CUBLASLT_UNIFIED_WORKSPACE"];

/// The variables of this process that cuBLAS reads.
pub(super) fn environment() -> BTreeMap<String, String> {
    let set = READ_BY_CUBLAS.into_iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        Some((name.to_owned(), value))
    });
    set.collect()
}

impl Gpu {
    /// What keeps results of `here` from being the ones of `self` to the bit, in words; nothing if
    /// they are to be the same. Settings that a run can take over are no difference.
    pub fn differences(&self, here: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut unequal = |what: &str, theirs: &str, ours: &str| {
            if theirs != ours {
                differences.push(format!("{what} {theirs}, here {ours}"));
            }
        };
        unequal(
            "compute capability",
            &self.compute_capability,
            &here.compute_capability,
        );
        unequal(
            "multiprocessors",
            &self.multiprocessors.to_string(),
            &here.multiprocessors.to_string(),
        );
        let unknown = |version: &Option<String>| version.clone().unwrap_or("unknown".into());
        unequal("cuBLAS", &unknown(&self.cublas), &unknown(&here.cublas));
        if self.cublas.is_some() && self.cublas == here.cublas {
            for (what, theirs, ours) in [
                ("libcublas", &self.cublas_sha256, &here.cublas_sha256),
                ("libcublasLt", &self.cublaslt_sha256, &here.cublaslt_sha256),
            ] {
                if let (Some(theirs), Some(ours)) = (theirs, ours) {
                    let short = |digest: &str| format!("sha256 {digest:.12}");
                    unequal(what, &short(theirs), &short(ours));
                }
            }
        }
        if self.cublas.is_none() && here.cublas.is_none() {
            differences.push("cuBLAS unknown on both sides".into());
        }
        for name in READ_BY_CUBLAS {
            let value = |gpu: &Self| gpu.environment.get(name).cloned();
            let [theirs, ours] = [value(self), value(here)];
            if theirs != ours {
                let text = |value: Option<String>| value.unwrap_or("not set".into());
                differences.push(format!("{name} {}, here {}", text(theirs), text(ours)));
            }
        }
        for name in READ_BY_TORCH {
            if let Some(value) = self.environment.get(name).filter(|value| *value != "0") {
                differences.push(format!("{name} {value}, which parity does not take over"));
            }
        }
        let flags = &self.flags;
        if flags.allow_fp16_accumulation {
            differences.push("fp16 accumulation, which parity does not do".into());
        }
        if !flags.prefers_cublas() {
            let library = &flags.preferred_blas_library;
            differences.push(format!("products by {library}, here by cuBLAS"));
        }
        if flags.tunable_op {
            differences.push("kernels chosen by TunableOp".into());
        }
        differences
    }
}

impl GpuFlags {
    /// Whether products went the way they go by default. torch prints `_BlasBackend.Cublas`.
    fn prefers_cublas(&self) -> bool {
        let name = self.preferred_blas_library.to_lowercase();
        ["default", "cublas"].contains(&name.rsplit('.').next().unwrap_or(&name))
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capability = self.compute_capability.replace('.', "");
        write!(f, "{} (sm_{capability})", self.name)?;
        match &self.cublas {
            Some(version) => write!(f, ", cuBLAS {version}"),
            None => f.write_str(", cuBLAS unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> Gpu {
        Gpu {
            name: "NVIDIA H100".into(),
            compute_capability: "9.0".into(),
            multiprocessors: 132,
            driver: Some("580.1".into()),
            cublas: Some("13.1.0".into()),
            cublas_sha256: Some("a".repeat(64)),
            cublaslt_sha256: None,
            flags: GpuFlags::default(),
            environment: BTreeMap::new(),
        }
    }

    #[test]
    fn the_same_kind_of_gpu_and_libraries_differ_in_nothing() {
        let other = Gpu {
            name: "NVIDIA H100 PCIe".into(),
            driver: None,
            cublas_sha256: None,
            ..gpu()
        };
        assert_eq!(gpu().differences(&other), [""; 0]);
    }

    #[test]
    fn everything_that_can_change_bits_is_a_difference() {
        let flags = |change: fn(&mut GpuFlags)| {
            let mut flags = GpuFlags::default();
            change(&mut flags);
            Gpu { flags, ..gpu() }
        };
        let with_variable = |name: &str| Gpu {
            environment: BTreeMap::from([(name.to_owned(), "1".to_owned())]),
            ..gpu()
        };
        let changed = [
            Gpu {
                compute_capability: "8.0".into(),
                ..gpu()
            },
            Gpu {
                multiprocessors: 114,
                ..gpu()
            },
            Gpu {
                cublas: Some("12.9.1".into()),
                ..gpu()
            },
            Gpu {
                cublas: None,
                ..gpu()
            },
            Gpu {
                cublas_sha256: Some("b".repeat(64)),
                ..gpu()
            },
            flags(|flags| flags.allow_fp16_accumulation = true),
            flags(|flags| flags.preferred_blas_library = "_BlasBackend.Cublaslt".into()),
            flags(|flags| flags.tunable_op = true),
            with_variable("NVIDIA_TF32_OVERRIDE"),
            with_variable("TORCH_CUBLASLT_UNIFIED_WORKSPACE"),
        ];
        for other in changed {
            assert_eq!(other.differences(&gpu()).len(), 1, "{other:?}");
        }
        for taken_over in [
            flags(|flags| flags.allow_tf32 = true),
            with_variable("CUBLAS_WORKSPACE_CONFIG"),
        ] {
            assert_eq!(taken_over.differences(&gpu()), [""; 0]);
        }
    }
}
