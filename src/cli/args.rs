//! The arguments, as typed.

use super::selftest::SelfTestFormat;
use crate::arch::{ArchitectureName, Framework};
use crate::backend::CudaSettings;
use crate::case::{ArithmeticName, Pattern};
use crate::checkpoint::megatron::Arg;
use crate::compare::Bound;
use crate::convert::ByteSize;
use crate::diff::{Modes, Share};
use crate::op::Confidence;
use crate::report::Format;
use crate::tensor::DType;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

/// Proves that a converted model checkpoint is the same model, stage by stage.
///
/// Exit codes: 0 parity holds, 1 out of tolerance, 2 usage or bad input, 3 no such device.
#[derive(Debug, Parser)]
#[command(name = "parity", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
    /// The most memory that values may take, such as 8GiB; what needs more is refused before it is taken [default:
    /// what is free]
    #[arg(long, global = true, value_name = "SIZE")]
    pub(super) max_memory: Option<ByteSize>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Compare a converted model with reference activations, or two dumps with each other
    Diff(Box<DiffArgs>),
    /// Say why a converted model differs
    Explain(Box<ExplainArgs>),
    /// Say which deliberate bugs a case would catch
    Selftest(Box<SelfTestArgs>),
    /// Make a transformers folder from a Megatron checkpoint
    Convert(ConvertArgs),
    /// Make a golden from a folder of raw dumps
    Import(ImportArgs),
    /// Show what a golden, an array, a model or a Megatron checkpoint holds
    Inspect(InspectArgs),
    /// Say what this machine can run models on, and what is missing
    Doctor(DoctorArgs),
}

/// Compare a converted model with reference activations, or two dumps with each other.
///
/// Without arguments, runs every case in cases/.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    pub(super) cases: CaseArgs,

    /// A dump to compare another with, of any model; no model is run: a golden, a folder of raw dumps, a .npy, .npz,
    /// .safetensors or .pt file, or a folder of them
    #[arg(
        long,
        value_name = "DUMP",
        requires = "candidate",
        conflicts_with_all = ["golden", "files"]
    )]
    pub(super) reference: Option<PathBuf>,
    /// The dump that is compared with the reference
    #[arg(long, value_name = "DUMP", requires = "reference")]
    pub(super) candidate: Option<PathBuf>,
    /// Names of the reference's tensors and the candidate's, as JSON, where they differ, or null for a tensor that
    /// is left out; proposed there if there is no such file
    #[arg(long, value_name = "FILE")]
    pub(super) map: Option<PathBuf>,

    /// Feed every stage from the reference, from our own earlier stages, or do both
    #[arg(long, value_enum, default_value_t = Modes::Both)]
    pub(super) mode: Modes,
    /// Compare only stages that match, such as 'h.0.*'
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub(super) stages: Pattern,
    /// Stop at the first stage that fails
    #[arg(long)]
    pub(super) fail_fast: bool,
    /// Fail if fewer of the stages that the golden holds are compared, such as 100%
    #[arg(long, value_name = "PERCENT", default_value = "0%")]
    pub(super) require_coverage: Share,

    /// How both sides compare with the same plan in fp64
    #[arg(long, conflicts_with = "reference")]
    pub(super) oracle: bool,
    /// Say why stages fail on the reference's own inputs
    #[arg(long, conflicts_with = "reference")]
    pub(super) explain: bool,

    #[command(flatten)]
    pub(super) report: ReportArgs,
}

/// Say why a converted model differs: what was done wrong in the conversion.
///
/// Every failing stage is run again on the reference's inputs with its weights reordered, another
/// epsilon, another mask, until the difference is what rounding explains.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    pub(super) cases: CaseArgs,
    /// Explain only stages that match, such as 'h.0.*'
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub(super) stage: Pattern,
    #[command(flatten)]
    pub(super) report: ReportArgs,
}

/// Put deliberate bugs into a case's model, one after the other, and say which of them its golden, stages
/// and tolerances would catch.
#[derive(Debug, clap::Args)]
pub(super) struct SelfTestArgs {
    #[command(flatten)]
    pub(super) cases: CaseArgs,

    /// Feed every stage from the reference, from our own earlier stages, or do both
    #[arg(long, value_enum, default_value_t = Modes::Both)]
    pub(super) mode: Modes,
    /// Compare only stages that match, such as 'h.0.*'
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub(super) stages: Pattern,
    /// Fail if fewer of the bugs are caught, such as 90%
    #[arg(long, value_name = "PERCENT", default_value = "0%")]
    pub(super) require: Share,
    /// Format of the result
    #[arg(long, value_enum, default_value_t = SelfTestFormat::Terminal)]
    pub(super) format: SelfTestFormat,
}

/// What is compared, and how.
#[derive(Debug, clap::Args)]
pub(super) struct CaseArgs {
    /// Case files, or two dumps of which the first is the reference; every .toml in cases/ if none is named
    #[arg(value_name = "CASES", conflicts_with_all = ["golden", "model"])]
    pub(super) files: Vec<PathBuf>,

    /// A golden, in place of a case file
    #[arg(long, value_name = "DIR", requires = "model")]
    pub(super) golden: Option<PathBuf>,
    /// A converted model, or a Megatron checkpoint as it is, in place of a case file
    #[arg(long, value_name = "DIR", requires = "golden")]
    pub(super) model: Option<PathBuf>,

    #[command(flatten)]
    pub(super) device: DeviceArgs,
    /// Whose arithmetic (rounding points) to run it in [default: the case file's, else that of the
    /// framework whose format the model is in]
    #[arg(long, value_enum)]
    pub(super) arithmetic: Option<ArithmeticName>,
    /// Megatron's arithmetic on this many tensor-parallel ranks [default: as many as the model's
    /// shards or the golden have]
    #[arg(long, value_name = "N", conflicts_with = "arithmetic")]
    pub(super) tp: Option<NonZeroUsize>,
    /// Cast weights to this type as they are loaded, as from_pretrained(dtype=…) does: fp32, fp16 or
    /// bf16 [default: as they are]
    #[arg(long, value_name = "DTYPE")]
    pub(super) dtype: Option<DType>,
    /// Hold every stage to this instead of the case file's and the built-in tolerances; may be given
    /// several times: exact, abs=X, rel=X, ulp=N, stat=X, and of isolated stages rounding, flips=P
    #[arg(long, value_name = "BOUND")]
    pub(super) tolerance: Vec<Bound>,
    /// How sure rounding budgets are: errors add up as independent ones do, or as the worst do
    #[arg(long, value_enum, default_value_t = Confidence::Probabilistic)]
    pub(super) confidence: Confidence,
}

/// Where a model runs.
#[derive(Debug, clap::Args)]
pub(super) struct DeviceArgs {
    /// Where to run the model; auto: on a GPU if one can be used
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    pub(super) device: DeviceName,
    #[command(flatten)]
    pub(super) cuda: CudaArgs,
    /// The most GPU memory that weights and values may take, such as 8GiB; the libraries need some 100 MB
    /// besides [default: all there is]
    #[arg(long, value_name = "SIZE")]
    pub(super) gpu_memory: Option<ByteSize>,
}

/// Where the CUDA libraries are.
#[derive(Debug, clap::Args)]
pub(super) struct CudaArgs {
    /// Folders of cuBLAS, cuBLASLt and NVRTC, separated as in PATH: those of the torch that made a
    /// reference, for exact results [default: PARITY_CUDA_LIBS, else the system's]
    #[arg(long, value_name = "DIRS")]
    pub(super) cuda_libs: Option<OsString>,
}

impl CudaArgs {
    /// The folders that are named here, else those that the environment names.
    pub(super) fn settings(&self) -> CudaSettings {
        match &self.cuda_libs {
            Some(folders) => CudaSettings::from_folders(folders),
            None => CudaSettings::from_env(),
        }
    }
}

/// A device, or whichever there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DeviceName {
    Cpu,
    Cuda,
    Auto,
}

/// Where the report goes.
#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// Format of the report on standard output
    #[arg(long, value_enum, default_value_t = Format::Terminal)]
    pub(super) format: Format,
    /// Write the report to a file as well; may be given several times
    #[arg(long, value_name = "FORMAT=PATH")]
    pub(super) output: Vec<Output>,
}

/// Make a transformers folder from a Megatron checkpoint.
///
/// The folder appears when it is complete. A run that was interrupted leaves DIR.incomplete; the
/// same command goes on from there.
#[derive(Debug, clap::Args)]
pub(super) struct ConvertArgs {
    /// Folder of the checkpoint: of Megatron-DeepSpeed (global_stepN), Megatron-LM (iter_N), or the
    /// one above it
    pub(super) checkpoint: PathBuf,
    /// The folder to write
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: PathBuf,
    /// Storage type: fp32, fp16 or bf16 [default: the checkpoint's]
    #[arg(long)]
    pub(super) dtype: Option<DType>,
    /// Largest file of weights
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    pub(super) max_shard_size: ByteSize,
    /// Keep this many tokens; the padding after them is cut [default: keep all rows]
    #[arg(long, value_name = "N")]
    pub(super) vocab_size: Option<usize>,
    /// What the model is [default: what its tensors show]
    #[arg(long, value_enum)]
    pub(super) architecture: Option<ArchitectureName>,
    /// A training argument that the checkpoint does not hold, or holds wrongly, under Megatron's
    /// name; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) arg: Vec<GivenArg>,

    /// A training argument that parity does not know, and of which you know that it changes nothing that
    /// the model computes; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(super) without_effect: Vec<String>,
    /// Replace the model that is in the folder
    #[arg(long)]
    pub(super) force: bool,
    /// Read the output back and prove every element against the shards
    #[arg(long)]
    pub(super) verify: bool,
}

/// Make a golden from a folder of raw dumps.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// Folder that scripts/parity_dump.py wrote; or of NNN.<module>.<input|output>.npy files, with
    /// config.json and tokens.npy in it or beside it
    pub(super) dumps: PathBuf,
    /// Whose hooks wrote them [default: what the dump itself says]
    #[arg(long, value_enum)]
    pub(super) from: Option<Framework>,
    /// The golden's folder, which must not exist
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: PathBuf,
    /// Keep statistics of every stage instead of its values
    #[arg(long)]
    pub(super) statistics_only: bool,
}

/// Show what a golden, an array, a model or a Megatron checkpoint holds.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// A golden's folder, a model's, a Megatron checkpoint's, a .npy, .npz, .safetensors or .pt file, or a folder of
    /// them
    pub(super) path: PathBuf,
}

/// Say what this machine can run models on, and what is missing.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub(super) cuda: CudaArgs,
}

/// `NAME=VALUE`.
#[derive(Clone, Debug)]
pub(super) struct GivenArg {
    pub(super) name: String,
    pub(super) value: Arg,
}

impl FromStr for GivenArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = named.ok_or("expected NAME=VALUE, such as num_attention_heads=32")?;
        let Ok(value) = value.parse();
        Ok(Self {
            // As typed on Megatron's command line, or as an attribute of its arguments.
            name: name.trim_start_matches('-').replace('-', "_"),
            value,
        })
    }
}

/// `FORMAT=PATH`.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) format: Format,
    pub(super) path: PathBuf,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, path) = text
            .split_once('=')
            .ok_or("expected FORMAT=PATH, such as json=report.json")?;
        if path.is_empty() {
            return Err("expected a path after the =".into());
        }
        Ok(Self {
            format: <Format as clap::ValueEnum>::from_str(format, false)?,
            path: path.into(),
        })
    }
}
