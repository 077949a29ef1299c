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
    /// The driver's release (`580.159.03`), or, where only that is known, the CUDA that it is for (`CUDA
    /// 13.0`). Results do not depend on it.
    #[serde(default)]
    pub driver: Option<String>,
    /// cuBLAS's version: major, minor, patch.
    #[serde(default)]
    pub cublas: Option<String>,
    /// cuBLASLt's version. It chooses the kernels.
    #[serde(default)]
    pub cublaslt: Option<String>,
    /// SHA-256 of the libcublas that was loaded.
    #[serde(default)]
    pub cublas_sha256: Option<String>,
    /// SHA-256 of the libcublasLt that was loaded.
    #[serde(default)]
    pub cublaslt_sha256: Option<String>,
    /// torch's settings.
    pub flags: GpuFlags,
    /// Variables of the environment that change what libraries compute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// torch's settings of matrix products on a GPU (`torch.backends.cuda`), under its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuFlags {
    /// fp32 products through TF32.
    pub allow_tf32: bool,
    /// fp16 products may add partial sums in fp16.
    pub allow_fp16_reduced_precision_reduction: bool,
    /// bf16 products may add partial sums in bf16.
    pub allow_bf16_reduced_precision_reduction: bool,
    /// fp16 products may be cut along their sums at all (torch 2.10).
    #[serde(default = "yes")]
    pub allow_fp16_reduced_precision_reduction_split_k: bool,
    /// bf16 products may be cut along their sums at all (torch 2.10).
    #[serde(default = "yes")]
    pub allow_bf16_reduced_precision_reduction_split_k: bool,
    /// fp16 products may accumulate in fp16.
    pub allow_fp16_accumulation: bool,
    /// The library that torch was told to prefer; `default` if none.
    pub preferred_blas_library: String,
    /// Whether TunableOp chose the kernels.
    pub tunable_op: bool,
}

fn yes() -> bool {
    true
}

impl Default for GpuFlags {
    /// torch's defaults.
    fn default() -> Self {
        Self {
            allow_tf32: false,
            allow_fp16_reduced_precision_reduction: true,
            allow_bf16_reduced_precision_reduction: true,
            allow_fp16_reduced_precision_reduction_split_k: true,
            allow_bf16_reduced_precision_reduction_split_k: true,
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
/// Largest workspace that is taken over; larger ones are taken from no card.
const MOST_WORKSPACE: usize = 1 << 30;

/// The variables of this process that cuBLAS reads.
pub(super) fn environment() -> BTreeMap<String, String> {
    let set = READ_BY_CUBLAS.into_iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        Some((name.to_owned(), value))
    });
    set.collect()
}

impl Gpu {
    /// The compute capability as numbers; `None` if it is none.
    pub fn capability(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.compute_capability.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// What keeps results of `here` from being the ones of `self` to the bit, in words; nothing if
    /// they are to be the same. Settings that a run can take over are no difference.
    pub fn differences(&self, here: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.compute_capability != here.compute_capability {
            let (theirs, ours) = (&self.compute_capability, &here.compute_capability);
            differences.push(format!("compute capability {theirs}, here {ours}"));
        }
        if self.multiprocessors != here.multiprocessors {
            let (theirs, ours) = (self.multiprocessors, here.multiprocessors);
            differences.push(format!("multiprocessors {theirs}, here {ours}"));
        }
        for (what, theirs, ours) in [
            ("cuBLAS", &self.cublas, &here.cublas),
            ("cuBLASLt", &self.cublaslt, &here.cublaslt),
        ] {
            let text = |version: &Option<String>| version.clone().unwrap_or("unknown".into());
            if theirs.is_none() || theirs != ours {
                differences.push(format!("{what} {}, here {}", text(theirs), text(ours)));
            }
        }
        for (what, theirs, ours) in [
            ("libcublas", &self.cublas_sha256, &here.cublas_sha256),
            ("libcublasLt", &self.cublaslt_sha256, &here.cublaslt_sha256),
        ] {
            let text = |digest: &Option<String>| match digest {
                Some(digest) => format!("sha256 {digest:.12}"),
                None => "unknown".into(),
            };
            if theirs.is_some() && theirs != ours {
                differences.push(format!("{what} {}, here {}", text(theirs), text(ours)));
            }
        }
        for name in READ_BY_CUBLAS {
            let value = |gpu: &Self| gpu.environment.get(name).cloned();
            let [theirs, ours] = [value(self), value(here)];
            if theirs != ours {
                let text = |value: Option<String>| value.unwrap_or("not set".into());
                differences.push(format!("{name} {}, here {}", text(theirs), text(ours)));
            }
        }
        let asked = Workspaces::asked(&self.environment);
        if [asked.cublas, asked.lt]
            .into_iter()
            .flatten()
            .any(|bytes| bytes > MOST_WORKSPACE)
        {
            differences.push("a workspace of cuBLAS above 1 GiB".into());
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

/// The workspaces that variables of the environment ask torch for, in bytes.
struct Workspaces {
    /// `CUBLAS_WORKSPACE_CONFIG`: the sum over all `:SIZE:COUNT` in it, in KiB.
    cublas: Option<usize>,
    /// `CUBLASLT_WORKSPACE_SIZE`, in KiB.
    lt: Option<usize>,
}

impl Workspaces {
    fn asked(environment: &BTreeMap<String, String>) -> Self {
        let variable = |name: &str| environment.get(name).map(String::as_str);
        let kibibytes = |number: usize| number.saturating_mul(1024);
        let lt = variable("CUBLASLT_WORKSPACE_SIZE").and_then(leading_number);
        Self {
            cublas: variable("CUBLAS_WORKSPACE_CONFIG")
                .and_then(pairs)
                .map(kibibytes),
            lt: lt.map(kibibytes),
        }
    }
}

/// The sum of all products of `:SIZE:COUNT` in a text, as torch finds them; `None` if there are none.
fn pairs(text: &str) -> Option<usize> {
    let mut parts = text.split(':').skip(1).peekable();
    let mut total: Option<usize> = None;
    while let Some(part) = parts.next() {
        let count = parts.peek().copied().and_then(leading_number);
        if let (Ok(size), Some(count)) = (part.parse::<usize>(), count) {
            let product = size.saturating_mul(count);
            total = Some(total.unwrap_or(0).saturating_add(product));
            parts.next();
        }
    }
    total
}

/// The digits that a text begins with.
fn leading_number(text: &str) -> Option<usize> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    text[..digits].parse().ok()
}

/// Bytes of the workspaces of cuBLAS and cuBLASLt in a run with these variables, given cuBLAS's default
/// on its GPU. torch 2.11 gives cuBLASLt 1 MiB unless it is asked for another; no more than cuBLAS has,
/// since both share one, unless `TORCH_CUBLASLT_UNIFIED_WORKSPACE` is 0.
pub(super) fn workspaces(environment: &BTreeMap<String, String>, default: usize) -> [usize; 2] {
    let asked = Workspaces::asked(environment);
    let cublas = asked.cublas.unwrap_or(default).min(MOST_WORKSPACE);
    let lt = asked.lt.unwrap_or(1 << 20).min(MOST_WORKSPACE);
    let unified = environment.get("TORCH_CUBLASLT_UNIFIED_WORKSPACE");
    match unified.map(String::as_str) {
        Some("0") => [cublas, lt],
        _ => [cublas, lt.min(cublas)],
    }
}

/// Whether torch sends linear layers with a bias to cuBLASLt in a run with these variables.
pub(super) fn uses_epilogues(environment: &BTreeMap<String, String>) -> bool {
    let disabled = environment.get("DISABLE_ADDMM_CUDA_LT");
    disabled.is_none_or(|value| value != "1")
}

impl GpuFlags {
    /// Whether the library that torch preferred is cuBLAS, its default. torch prints
    /// `_BlasBackend.Cublas`.
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
            cublaslt: Some("13.1.0".into()),
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
            cublaslt_sha256: Some("c".repeat(64)),
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
        let with_workspace = |name: &str, value: &str| Gpu {
            environment: BTreeMap::from([(name.to_owned(), value.to_owned())]),
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
            Gpu {
                cublaslt: None,
                ..gpu()
            },
            Gpu {
                cublas_sha256: None,
                cublaslt_sha256: Some("c".repeat(64)),
                ..gpu()
            },
            with_workspace("CUBLAS_WORKSPACE_CONFIG", ":65536:64"),
            with_workspace("CUBLASLT_WORKSPACE_SIZE", "2000000"),
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

    #[test]
    fn workspaces_are_read_as_torch_reads_them() {
        let of = |variables: &[(&str, &str)]| {
            let pairs = variables
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()));
            workspaces(&pairs.collect(), 32 << 20)
        };
        const CONFIG: &str = "CUBLAS_WORKSPACE_CONFIG";
        assert_eq!(of(&[]), [32 << 20, 1 << 20]);
        assert_eq!(of(&[(CONFIG, ":4096:2:16:8")]), [8_519_680, 1 << 20]);
        assert_eq!(of(&[(CONFIG, ":16:8")]), [131_072, 131_072]);
        // The colon is part of a pair, and anything else is passed over.
        assert_eq!(of(&[(CONFIG, "16:8")]), [32 << 20, 1 << 20]);
        assert_eq!(of(&[(CONFIG, "x:16:8x:y")]), [131_072, 131_072]);
        let lt = ("CUBLASLT_WORKSPACE_SIZE", "128k");
        assert_eq!(of(&[lt]), [32 << 20, 131_072]);
        let apart = ("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "0");
        assert_eq!(of(&[(CONFIG, ":16:8"), apart]), [131_072, 1 << 20]);
    }
}
