//! `golden.json`.
//!
//! Version 1. A reader refuses versions it does not know and keys it does not know: a golden that
//! is half understood proves nothing.

use crate::arch::ModelConfig;
use crate::backend::Gpu;
use crate::error::{BadInput, Result};
use crate::plan::{Arithmetic, StageId, Variant};
use crate::tensor::{DType, Join, Layout};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// The version this crate writes.
const VERSION: u32 = 1;
/// Largest manifest believed: names and digests of some 100,000 files.
const MAX_BYTES: usize = 64 << 20;

/// What `golden.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format.
    pub parity_golden: u32,
    /// Where the activations come from.
    pub provenance: Provenance,
    /// Whose places of rounding they have.
    pub arithmetic: Arithmetic,
    /// The reference model.
    pub model: ModelConfig,
    /// Its storage type.
    pub dtype: DType,
    /// The token ids, `[batch, positions]`.
    pub tokens: FileRecord,
    /// The recorded stages, in execution order.
    pub stages: Vec<StageRecord>,
}

/// Where activations come from. Facts for the reader; `extra` holds what the dump said besides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Framework, as the importer names it.
    pub framework: String,
    /// What device computed them.
    pub device: String,
    /// Version of torch, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch: Option<String>,
    /// The GPU and its libraries, if one computed them and the dump says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// The ALiBi slopes that the run's own device computed, if the dump says: a GPU's `pow` may give
    /// another last bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alibi_slopes: Option<Vec<f32>>,
    /// Everything else that was recorded: commit, libraries, flags that change numerics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Value>,
}

/// A file of the golden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its path, relative to the golden.
    pub file: String,
    /// Its SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

/// One recorded stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    /// The stage, by the converted model's name.
    pub stage: StageId,
    /// Its name in the dump.
    pub source: String,
    /// The type its values truly have, whatever the file stores them in.
    pub dtype: DType,
    /// Order of the axes in the files.
    pub layout: Layout,
    /// How the recorded value relates to the plain one.
    #[serde(rename = "form", default = "plain", skip_serializing_if = "is_plain")]
    pub variant: Variant,
    /// The values.
    pub content: Content,
}

fn plain() -> Variant {
    Variant::PLAIN
}

fn is_plain(variant: &Variant) -> bool {
    *variant == Variant::PLAIN
}

/// What is kept of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// All values, in one file or one a tensor-parallel rank.
    Full {
        /// How the files join.
        join: Join,
        /// The files, in rank order.
        files: Vec<FileRecord>,
        /// Largest difference between ranks that should agree, where they did not; rank 0 is kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rank_drift: Option<f64>,
    },
    /// Statistics only.
    Statistics(StatisticsFiles),
}

/// Statistics of a stage; fp64 arrays, those a reference has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatisticsFiles {
    /// Mean over the last axis of every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_mean: Option<FileRecord>,
    /// Least value of every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_min: Option<FileRecord>,
    /// Greatest value of every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_max: Option<FileRecord>,
    /// Sum over the last axis of every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_sum: Option<FileRecord>,
    /// Mean over all tokens of every tensor-parallel slice of the vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_shard_mean: Option<FileRecord>,
}

impl StatisticsFiles {
    /// The files there are.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileRecord> {
        [
            &self.token_mean,
            &self.token_min,
            &self.token_max,
            &self.token_sum,
            &self.vocab_shard_mean,
        ]
        .into_iter()
        .flatten()
    }
}

impl Manifest {
    /// The version that goes into new manifests.
    pub(super) const VERSION: u32 = VERSION;

    /// Reads `golden.json` from bytes; `path` is for messages.
    ///
    /// # Errors
    /// [`BadInput`] if it is no JSON of this format and version, or breaks a rule of the format: a
    /// file outside the folder, a digest that is none, a stage twice, shards without an axis.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            parity_golden: u32,
        }
        let bad = |expected: &str, found: String| BadInput::new(path, expected, found);
        if bytes.len() > MAX_BYTES {
            let expected = format!("at most {MAX_BYTES} bytes");
            return Err(bad(&expected, format!("{} bytes", bytes.len())).into());
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| {
            bad(
                "a golden's manifest, a JSON object with `parity_golden`",
                e.to_string(),
            )
            .remedy("`parity import` makes one from a dump")
        })?;
        if version.parity_golden != VERSION {
            let found = format!("version {}", version.parity_golden);
            let fault = bad(&format!("format version {VERSION}"), found);
            return Err(fault
                .remedy("use the parity that wrote it, or import the dump again")
                .into());
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| bad("a golden's manifest", e.to_string()))?;
        manifest.validate(path)?;
        Ok(manifest)
    }

    /// The manifest as JSON text.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The record of a stage.
    pub fn stage(&self, stage: &StageId) -> Option<&StageRecord> {
        self.stages.iter().find(|record| record.stage == *stage)
    }

    /// How many tensor-parallel ranks made it.
    pub fn tensor_parallel(&self) -> usize {
        match &self.arithmetic {
            Arithmetic::Megatron(megatron) => megatron.tensor_parallel,
            Arithmetic::Transformers(_) => 1,
        }
    }

    fn validate(&self, path: &Path) -> Result<()> {
        self.model.validate(path)?;
        let bad = |at: &str, expected: &str, found: String| -> Result<()> {
            Err(BadInput::new(path, expected, found).at(at).into())
        };
        let is_float = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::Bf16);
        if !is_float(self.dtype) {
            return bad("dtype", "fp32, fp16 or bf16", self.dtype.to_string());
        }
        if !(1..=4096).contains(&self.tensor_parallel()) {
            let found = self.tensor_parallel().to_string();
            return bad("tensor_parallel", "1 to 4096 ranks", found);
        }
        let mut seen = BTreeSet::new();
        for record in &self.stages {
            let at = record.stage.as_str();
            if !seen.insert(&record.stage) {
                return bad(at, "every stage once", "it twice".into());
            }
            if !is_float(record.dtype) {
                return bad(at, "values of fp32, fp16 or bf16", record.dtype.to_string());
            }
            if !(record.variant.divided_by.is_finite() && record.variant.divided_by > 0.0) {
                return bad(
                    at,
                    "a positive divided_by",
                    record.variant.divided_by.to_string(),
                );
            }
            let count = match &record.content {
                Content::Full { join, files, .. } => match join {
                    Join::Replicated if files.len() != 1 => {
                        return bad(at, "one file where ranks agree", files.len().to_string());
                    }
                    _ => files.len(),
                },
                Content::Statistics(files) => files.files().count(),
            };
            if count == 0 {
                return bad(at, "at least one file", "none".into());
            }
        }
        let records = self.stages.iter().flat_map(StageRecord::files);
        for record in records.chain([&self.tokens]) {
            let mut parts = Path::new(&record.file).components();
            let inside =
                parts.clone().count() > 0 && parts.all(|c| matches!(c, Component::Normal(_)));
            if !inside {
                return bad(
                    "file",
                    "a path inside the golden",
                    format!("{:?}", record.file),
                );
            }
            let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            if record.sha256.len() != 64 || !record.sha256.chars().all(hex) {
                let found = format!("{:?}", record.sha256);
                return bad(&record.file, "a SHA-256 of 64 hexadecimal digits", found);
            }
        }
        Ok(())
    }
}

impl StageRecord {
    /// All files of the stage.
    pub(super) fn files(&self) -> Box<dyn Iterator<Item = &FileRecord> + '_> {
        match &self.content {
            Content::Full { files, .. } => Box::new(files.iter()),
            Content::Statistics(files) => Box::new(files.files()),
        }
    }
}
