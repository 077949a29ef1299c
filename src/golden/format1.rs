//! `golden.json` of format 1, read into what format 2 is in memory.
//!
//! It had SHA-256 only, `form` for the variant, the content's kind as a key beside its files, and no
//! optional keys: every key that is not known is refused.

use super::manifest::{
    Content, FileRecord, Manifest, Provenance, StageRecord, StatisticsFiles, plain,
};
use crate::arch::ModelConfig;
use crate::backend::Gpu;
use crate::digest::{Algorithm, Digest};
use crate::error::{BadInput, Result};
use crate::plan::{Arithmetic, StageId, Variant};
use crate::tensor::{DType, Join, Layout};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest1 {
    #[serde(rename = "parity_golden")]
    _version: u32,
    provenance: Provenance1,
    arithmetic: Arithmetic,
    model: ModelConfig,
    dtype: DType,
    tokens: File1,
    stages: Vec<Stage1>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provenance1 {
    framework: String,
    device: String,
    torch: Option<String>,
    gpu: Option<Gpu>,
    alibi_slopes: Option<Vec<f32>>,
    #[serde(default)]
    extra: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File1 {
    file: String,
    sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage1 {
    stage: StageId,
    source: String,
    dtype: DType,
    layout: Layout,
    #[serde(default = "plain")]
    form: Variant,
    content: Content1,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Content1 {
    Full {
        join: Join,
        files: Vec<File1>,
        rank_drift: Option<f64>,
    },
    Statistics(Statistics1),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statistics1 {
    token_mean: Option<File1>,
    token_min: Option<File1>,
    token_max: Option<File1>,
    token_sum: Option<File1>,
    vocab_shard_mean: Option<File1>,
}

/// Reads a manifest of format 1; its rules are still to be checked.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest> {
    let manifest: Manifest1 = serde_json::from_slice(bytes)
        .map_err(|e| BadInput::new(path, "a golden's manifest", e.to_string()))?;
    let stages = manifest.stages.into_iter().map(|stage| stage.read(path));
    Ok(Manifest {
        provenance: manifest.provenance.read(),
        arithmetic: manifest.arithmetic,
        model: manifest.model,
        dtype: manifest.dtype,
        tokens: manifest.tokens.read(path)?,
        positions: None,
        attention_mask: None,
        stages: stages.collect::<Result<_>>()?,
    })
}

impl Provenance1 {
    fn read(mut self) -> Provenance {
        // Dumps put them there.
        let numerics = match self.extra.get("numerics") {
            Some(Value::Object(_)) => self.extra.remove("numerics"),
            _ => None,
        };
        let numerics = numerics.as_ref().and_then(Value::as_object).cloned();
        let numerics = numerics.into_iter().flatten().collect();
        Provenance {
            framework: self.framework,
            device: self.device,
            torch: self.torch,
            gpu: self.gpu,
            alibi_slopes: self.alibi_slopes,
            numerics,
            extra: self.extra,
            ..Provenance::default()
        }
    }
}

impl File1 {
    fn read(self, path: &Path) -> Result<FileRecord> {
        match Digest::from_hex(Algorithm::Sha256, &self.sha256) {
            Some(digest) => Ok(FileRecord {
                file: self.file,
                digest,
            }),
            None => {
                let found = format!("{:?}", self.sha256);
                let fault = BadInput::new(path, "a SHA-256 of 64 hexadecimal digits", found);
                Err(fault.at(self.file).into())
            }
        }
    }
}

impl Stage1 {
    fn read(self, path: &Path) -> Result<StageRecord> {
        Ok(StageRecord {
            stage: self.stage,
            source: self.source,
            dtype: self.dtype,
            layout: self.layout,
            variant: self.form,
            content: self.content.read(path)?,
        })
    }
}

impl Content1 {
    fn read(self, path: &Path) -> Result<Content> {
        let optional = |file: Option<File1>| file.map(|file| file.read(path)).transpose();
        Ok(match self {
            Self::Full {
                join,
                files,
                rank_drift,
            } => Content::Full {
                join,
                files: files
                    .into_iter()
                    .map(|file| file.read(path))
                    .collect::<Result<_>>()?,
                rank_drift,
            },
            Self::Statistics(files) => Content::Statistics(StatisticsFiles {
                token_mean: optional(files.token_mean)?,
                token_min: optional(files.token_min)?,
                token_max: optional(files.token_max)?,
                token_sum: optional(files.token_sum)?,
                vocab_shard_mean: optional(files.vocab_shard_mean)?,
                token_projection: None,
            }),
        })
    }
}
