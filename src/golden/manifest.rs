//! `golden.json`: what a golden says of itself, in memory as in format 2.
//!
//! A golden that is half understood proves nothing, so a key that the reader does not know is
//! refused, and so is a value (a layout, a join, an algorithm) that it does not know. Whoever adds a
//! key knows whether the values can be understood without it: if so, its path stands in `optional`,
//! and older readers go on without it and say so. As with the chunks of a PNG, what is new has to be
//! understood unless it says otherwise. `arithmetic`, `model` and `gpu` have no optional keys: they
//! decide what is computed.

use super::format1;
use crate::arch::{Framework, ModelConfig};
use crate::backend::Gpu;
use crate::digest::Digest;
use crate::error::{BadInput, Result};
use crate::plan::{Arithmetic, StageId, Variant};
use crate::tensor::{DType, Join, Layout};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path};

/// The version this crate writes; it reads version 1 too.
const VERSION: u32 = 2;
/// The key that holds it.
const VERSION_KEY: &str = "parity_golden";
/// Largest manifest believed: names and digests of some 100,000 files.
const MAX_BYTES: usize = 64 << 20;

/// What `golden.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Where the activations come from.
    pub provenance: Provenance,
    /// Whose arithmetic they were computed in.
    pub arithmetic: Arithmetic,
    /// The reference model.
    pub model: ModelConfig,
    /// Its storage type.
    pub dtype: DType,
    /// The token ids, `[batch, positions]`.
    pub tokens: FileRecord,
    /// The position of every token, if the run was given any; else they are `0..s` in every row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<FileRecord>,
    /// Which tokens are padding (0), and which are attended to: 1, or the number in its row of the sequence that
    /// a token is of. `None` if every row is one sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_mask: Option<FileRecord>,
    /// The recorded stages, in execution order.
    pub stages: Vec<StageRecord>,
}

/// Where activations come from, for the reader; `extra` holds what the dump said besides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Framework, as the importer names it.
    pub framework: String,
    /// Its version, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework_version: Option<String>,
    /// The commit of its source that ran, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What device computed them.
    pub device: String,
    /// Version of torch, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch: Option<String>,
    /// Versions of other libraries, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub libraries: BTreeMap<String, String>,
    /// The GPU and its libraries, if one computed them and the dump says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// The unit that computed matrix products, if known: that of an architecture of GPUs (`sm_90
    /// wgmma`), or the tier of a CPU (`avx512_bf16`). It decides the order of their sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The type in which autocast ran products; `None` if it was off or the dump does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autocast: Option<DType>,
    /// Settings of the framework that change what it computes, under its names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numerics: BTreeMap<String, Value>,
    /// The ALiBi slopes that the run's own device computed, if the dump says: a GPU's `pow` may give
    /// another last bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alibi_slopes: Option<Vec<f32>>,
    /// Everything else that was recorded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Value>,
}

/// `2.11.0+cu130` → (2, 11).
pub(crate) fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '+']);
    let mut part = || parts.next()?.parse().ok();
    Some((part()?, part()?))
}

/// Types in which a run's products were computed, where that is not the run's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReducedProducts {
    /// A half type, by autocast.
    Autocast(DType),
    /// fp32 operands without their last 13 bits, by a GPU's tensor cores.
    Tf32,
}

impl ReducedProducts {
    /// A type that such products are as precise as, at least. tf32 has ten bits, and cuts: two operands are off
    /// by up to 2⁻⁹ together, which is beyond fp16's 2⁻¹¹.
    pub fn as_precise_as(self) -> DType {
        match self {
            Self::Autocast(half) => half,
            Self::Tf32 => DType::Bf16,
        }
    }
}

impl fmt::Display for ReducedProducts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Autocast(half) => write!(f, "under {half} autocast"),
            Self::Tf32 => f.write_str("in tf32"),
        }
    }
}

impl Provenance {
    /// In what type a run in `dtype` computed its products, if in another.
    pub fn reduced_products(&self, dtype: DType) -> Option<ReducedProducts> {
        // A switch of torch's that does nothing on a CPU.
        let is_on = |gpu: &Gpu| gpu.flags.allow_tf32;
        let tf32 = dtype == DType::F32 && self.gpu.as_ref().is_some_and(is_on);
        let autocast = self.autocast.map(ReducedProducts::Autocast);
        autocast.or(tf32.then_some(ReducedProducts::Tf32))
    }

    /// Whether attention may have run as one kernel, which rounds neither scores nor probabilities as a step
    /// would: transformers' default, unless it says `eager`, and Megatron's where it says so.
    pub fn may_fuse_attention(&self) -> bool {
        let said = |key: &str| {
            let config = self.extra.get("config");
            let config = config.and_then(|config| config.get(key));
            let all = [self.numerics.get(key), self.extra.get(key), config];
            all.into_iter().flatten().find(|value| !value.is_null())
        };
        if self.framework == Framework::Transformers.to_string() {
            let implementation = said("attn_implementation").and_then(Value::as_str);
            return implementation != Some("eager");
        }
        let flag = said("use_flash_attn").and_then(Value::as_bool);
        let backend = said("attention_backend").and_then(Value::as_str);
        let is_fused = |backend: &str| !backend.contains("unfused") && !backend.contains("local");
        flag == Some(true) || backend.is_some_and(is_fused)
    }
}

/// A file of the golden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its path, relative to the golden.
    pub file: String,
    /// What its bytes hash to.
    pub digest: Digest,
}

/// One recorded stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    #[serde(default = "plain", skip_serializing_if = "is_plain")]
    pub variant: Variant,
    /// The values.
    pub content: Content,
}

pub(super) fn plain() -> Variant {
    Variant::PLAIN
}

fn is_plain(variant: &Variant) -> bool {
    *variant == Variant::PLAIN
}

/// What is kept of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "one a stage: a box would be in every match and save little"
)]
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
#[serde(default)]
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
    /// Every token's [projection](crate::compare::Projection).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_projection: Option<ProjectionFile>,
}

/// Projections, and the seed of their direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionFile {
    /// What the weights are drawn from.
    pub seed: u64,
    /// One value a token.
    pub values: FileRecord,
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
        .chain(
            self.token_projection
                .as_ref()
                .map(|projection| &projection.values),
        )
    }
}

impl Manifest {
    /// Reads `golden.json` from bytes; `path` is for messages.
    ///
    /// # Errors
    /// [`BadInput`] if it is no JSON of a known version of the format, has keys that are neither
    /// known nor optional, or breaks a rule of the format: a file outside the folder, a digest that
    /// is none, a stage twice, shards without an axis.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::parse_noting(path, bytes).map(|(manifest, _)| manifest)
    }

    /// As [`Self::parse`], with the optional keys that it holds and this crate does not know.
    pub(super) fn parse_noting(path: &Path, bytes: &[u8]) -> Result<(Self, Vec<String>)> {
        #[derive(Deserialize)]
        struct Head {
            parity_golden: u32,
            #[serde(default)]
            optional: BTreeSet<String>,
        }
        let bad = |expected: &str, found: String| BadInput::new(path, expected, found);
        if bytes.len() > MAX_BYTES {
            let expected = format!("at most {MAX_BYTES} bytes");
            return Err(bad(&expected, format!("{} bytes", bytes.len())).into());
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| {
            bad(
                "a golden's manifest, a JSON object with `parity_golden`",
                e.to_string(),
            )
            .remedy("`parity import` makes a golden of a dump")
        })?;
        let (manifest, ignored) = match head.parity_golden {
            1 => (format1::parse(path, bytes)?, Vec::new()),
            VERSION => Self::parse_format2(path, bytes, &head.optional)?,
            other => {
                let fault = bad("format version 1 or 2", format!("version {other}"));
                return Err(fault
                    .remedy("use the parity that wrote it, or import the dump again")
                    .into());
            }
        };
        manifest.validate(path)?;
        Ok((manifest, ignored))
    }

    fn parse_format2(
        path: &Path,
        bytes: &[u8],
        optional: &BTreeSet<String>,
    ) -> Result<(Self, Vec<String>)> {
        let mut unknown = BTreeSet::new();
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let manifest = serde_ignored::deserialize(&mut json, |key| {
            unknown.insert(place(&key));
        })
        .map_err(|e| BadInput::new(path, "a golden's manifest", e.to_string()))?;
        for known in [VERSION_KEY, "optional"] {
            unknown.remove(known);
        }
        let (ignored, refused): (Vec<_>, Vec<_>) =
            unknown.into_iter().partition(|key| optional.contains(key));
        if refused.is_empty() {
            return Ok((manifest, ignored));
        }
        let expected = "keys that this version knows, or that `optional` lists";
        Err(BadInput::new(path, expected, refused.join(", "))
            .remedy("use the parity that wrote it: what is new may change what the values mean")
            .into())
    }

    /// The manifest as JSON text, in format 2.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Versioned<'a> {
            parity_golden: u32,
            #[serde(flatten)]
            manifest: &'a Manifest,
        }
        let versioned = Versioned {
            parity_golden: VERSION,
            manifest: self,
        };
        let mut text = serde_json::to_string_pretty(&versioned).unwrap_or_default();
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
        if !self.dtype.is_runnable() {
            return bad("dtype", "fp32, fp16 or bf16", self.dtype.to_string());
        }
        if !(1..=4096).contains(&self.tensor_parallel()) {
            let found = self.tensor_parallel().to_string();
            return bad("tensor_parallel", "1 to 4096 ranks", found);
        }
        let mut slopes = self.provenance.alibi_slopes.iter().flatten();
        if let Some(slope) = slopes.find(|slope| !slope.is_finite()) {
            return bad("alibi_slopes", "finite numbers", slope.to_string());
        }
        let mut seen = BTreeSet::new();
        for record in &self.stages {
            let at = record.stage.as_str();
            if !seen.insert(&record.stage) {
                return bad(at, "every stage once", "it twice".into());
            }
            if !record.dtype.is_runnable() {
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
                    _ if ![1, self.tensor_parallel()].contains(&files.len()) => {
                        let ranks = self.tensor_parallel();
                        let expected = format!("one file, or one of each of {ranks} ranks");
                        return bad(at, &expected, files.len().to_string());
                    }
                    _ => files.len(),
                },
                Content::Statistics(files) => files.files().count(),
            };
            if count == 0 {
                return bad(at, "at least one file", "none".into());
            }
        }
        let inputs = [
            Some(&self.tokens),
            self.positions.as_ref(),
            self.attention_mask.as_ref(),
        ];
        let records = self.stages.iter().flat_map(StageRecord::files);
        for record in records.chain(inputs.into_iter().flatten()) {
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
        }
        Ok(())
    }
}

/// A key's place, whichever stage or file it is of: `stages.content.files.size`.
fn place(key: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match key {
        Path::Root => String::new(),
        Path::Map { parent, key } => match place(parent) {
            above if above.is_empty() => key.clone(),
            above => format!("{above}.{key}"),
        },
        Path::Seq { parent, .. }
        | Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => place(parent),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::BloomConfig;
    use crate::digest::Algorithm;
    use crate::plan::{MegatronArithmetic, TransformersArithmetic};
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(text: &str) -> Result<(Manifest, Vec<String>)> {
        Manifest::parse_noting(Path::new("golden.json"), text.as_bytes())
    }

    fn refusal(manifest: &Value) -> String {
        parse(&manifest.to_string()).unwrap_err().to_string()
    }

    fn files() -> impl Strategy<Value = FileRecord> {
        ("[a-z0-9.]{1,12}x", any::<[u8; 8]>(), any::<bool>()).prop_map(|(file, bytes, blake3)| {
            let algorithm = if blake3 {
                Algorithm::Blake3
            } else {
                Algorithm::Sha256
            };
            FileRecord {
                file,
                digest: algorithm.digest(&bytes),
            }
        })
    }

    fn contents() -> impl Strategy<Value = Content> {
        let optional = || prop::option::of(files());
        let statistics = (files(), optional(), optional(), optional(), optional());
        let shards = (0_usize..4, prop::collection::vec(files(), 1..4));
        prop_oneof![
            (files(), prop::option::of(0.0..1e9)).prop_map(|(file, rank_drift)| Content::Full {
                join: Join::Replicated,
                files: vec![file],
                rank_drift,
            }),
            shards.prop_map(|(axis, files)| Content::Full {
                join: Join::Concat(axis),
                files,
                rank_drift: None,
            }),
            statistics.prop_map(|(mean, token_min, token_max, token_sum, vocab)| {
                Content::Statistics(StatisticsFiles {
                    token_mean: Some(mean),
                    token_min,
                    token_max,
                    token_sum,
                    vocab_shard_mean: vocab,
                    token_projection: None,
                })
            }),
        ]
    }

    fn stages() -> impl Strategy<Value = Vec<StageRecord>> {
        let dtype = prop::sample::select(vec![DType::F32, DType::F16, DType::Bf16]);
        let layout = prop::sample::select(vec![Layout::Bsh, Layout::Sbh, Layout::Bnss]);
        let variant = (any::<bool>(), 1.0_f32..200.0).prop_map(|(without_bias, divided_by)| {
            let divided_by = if without_bias { 1.0 } else { divided_by };
            Variant {
                without_bias,
                divided_by,
            }
        });
        let stage = (dtype, layout, variant, contents(), ".{0,20}");
        prop::collection::vec(stage, 0..4).prop_map(|stages| {
            let stages = stages.into_iter().enumerate();
            let record = |(number, (dtype, layout, variant, content, source))| StageRecord {
                stage: StageId::from(format!("h.{number}").as_str()),
                source,
                dtype,
                layout,
                variant,
                content,
            };
            stages.map(record).collect()
        })
    }

    fn provenances() -> impl Strategy<Value = Provenance> {
        let text = || prop::option::of(".{0,20}");
        let names = || prop::collection::btree_map(".{0,8}", ".{0,8}", 0..3);
        let slopes = prop::option::of(prop::collection::vec(-1e9_f32..1e9, 0..4));
        let autocast = prop::option::of(Just(DType::Bf16));
        let texts = (".{0,20}", text(), text(), ".{0,20}", text(), text());
        (texts, names(), names(), names(), slopes, autocast).prop_map(
            |(texts, libraries, numerics, extra, alibi_slopes, autocast)| {
                let values = |names: BTreeMap<String, String>| {
                    let names = names.into_iter();
                    names.map(|(name, value)| (name, value.into())).collect()
                };
                let (framework, framework_version, commit, device, torch, unit) = texts;
                Provenance {
                    framework,
                    framework_version,
                    commit,
                    device,
                    torch,
                    libraries,
                    gpu: None,
                    unit,
                    autocast,
                    numerics: values(numerics),
                    alibi_slopes,
                    extra: values(extra),
                }
            },
        )
    }

    fn manifests() -> impl Strategy<Value = Manifest> {
        let arithmetic = prop_oneof![
            (1_usize..9, any::<bool>(), any::<bool>()).prop_map(|(ranks, scaling, fused)| {
                Arithmetic::Megatron(MegatronArithmetic {
                    tensor_parallel: ranks,
                    query_key_layer_scaling: scaling,
                    fused_kernels: fused,
                    ..MegatronArithmetic::default()
                })
            }),
            any::<bool>().prop_map(|use_cache| {
                Arithmetic::Transformers(TransformersArithmetic {
                    slow_but_exact: None,
                    use_cache,
                    ..TransformersArithmetic::default()
                })
            }),
        ];
        let optional = || prop::option::of(files());
        let inputs = (files(), optional(), optional());
        let manifests = (provenances(), arithmetic, inputs, stages()).prop_map(
            |(provenance, arithmetic, (tokens, positions, attention_mask), stages)| Manifest {
                provenance,
                arithmetic,
                model: ModelConfig::Bloom(BloomConfig {
                    hidden_size: 64,
                    n_layer: 2,
                    n_head: 8,
                    vocab_size: 512,
                    layer_norm_epsilon: 1e-5,
                    apply_residual_connection_post_layernorm: false,
                    tie_word_embeddings: true,
                }),
                dtype: DType::Bf16,
                tokens,
                positions,
                attention_mask,
                stages,
            },
        );
        manifests.prop_map(|mut manifest| {
            // One file, or one a rank.
            let ranks = manifest.tensor_parallel();
            for record in &mut manifest.stages {
                if let Content::Full { files, .. } = &mut record.content
                    && let [first, _, ..] = files.as_slice()
                {
                    *files = vec![first.clone(); ranks];
                }
            }
            manifest
        })
    }

    /// A small manifest of format 2.
    fn small() -> Value {
        let file = |name: &str| {
            let digest = Algorithm::Blake3.digest(name.as_bytes());
            json!({"file": name, "digest": digest})
        };
        json!({
            "parity_golden": 2,
            "provenance": {"framework": "transformers", "device": "cpu"},
            "arithmetic": {"framework": "transformers"},
            "model": {
                "architecture": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 8,
                "vocab_size": 512, "layer_norm_epsilon": 1e-5,
                "apply_residual_connection_post_layernorm": false, "tie_word_embeddings": true,
            },
            "dtype": "bf16",
            "tokens": file("tokens.npy"),
            "stages": [{
                "stage": "h.0", "source": "h.0.output", "dtype": "bf16", "layout": "bsh",
                "content": {"full": {"join": "replicated", "files": [file("h.0.npy")]}},
            }],
        })
    }

    #[test]
    fn what_is_new_is_refused_unless_it_says_that_it_is_optional() {
        let mut new = small();
        assert_eq!(parse(&new.to_string()).unwrap().1, [""; 0]);
        new["history"] = json!([{"who": "a reviewer", "why": "a new torch"}]);
        let content = &mut new["stages"][0]["content"]["full"];
        content["checksum"] = 7.into();
        content["files"][0]["bytes"] = 9.into();
        new["provenance"]["seen"] = true.into();
        insta::assert_snapshot!(
            refusal(&new),
            @"golden.json: expected keys that this version knows, or that `optional` lists, found history, provenance.seen, stages.content.checksum, stages.content.files.bytes; use the parity that wrote it: what is new may change what the values mean"
        );
        new["optional"] = json!(["history", "stages.content.files.bytes", "provenance.seen"]);
        assert!(refusal(&new).contains("found stages.content.checksum;"));
        new["optional"] = json!([
            "history",
            "stages.content.files.bytes",
            "provenance.seen",
            "stages.content.checksum"
        ]);
        let (manifest, ignored) = parse(&new.to_string()).unwrap();
        assert_eq!(manifest, parse(&small().to_string()).unwrap().0);
        assert_eq!(
            ignored,
            [
                "history",
                "provenance.seen",
                "stages.content.checksum",
                "stages.content.files.bytes"
            ]
        );
    }

    /// `PARITY_UPDATE_DOCS=1 cargo test --lib golden` writes it.
    #[test]
    fn the_documented_example_is_a_part_of_a_real_golden() {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let golden = std::fs::read(project.join("goldens/bloom_fp16_tp1/golden.json")).unwrap();
        let mut manifest = Manifest::parse(Path::new("golden.json"), &golden).unwrap();
        let shown = ["h.0.self_attention.dense", "logits"];
        manifest
            .stages
            .retain(|record| shown.contains(&record.stage.as_str()));
        let facts = &mut manifest.provenance.extra;
        facts.retain(|fact, _| ["seed", "source"].contains(&fact.as_str()));
        let path = project.join("docs/golden.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once("```json\n").unwrap();
        let (example, after) = rest.split_once("```").unwrap();
        if example == manifest.to_json() {
            return;
        }
        assert!(
            std::env::var_os("PARITY_UPDATE_DOCS").is_some(),
            "docs/golden.md is out of date: PARITY_UPDATE_DOCS=1 cargo test --lib golden"
        );
        let page = format!("{before}```json\n{}```{after}", manifest.to_json());
        std::fs::write(path, page).unwrap();
    }

    #[test]
    fn what_decides_the_arithmetic_is_never_optional() {
        for place in ["arithmetic", "model"] {
            let mut new = small();
            new[place]["rope"] = 1.into();
            new["optional"] = json!([format!("{place}.rope")]);
            assert!(refusal(&new).contains("unknown field `rope`"), "{place}");
        }
    }

    #[test]
    fn values_that_are_not_known_are_refused() {
        let mut refused = String::new();
        let mut refuse = |change: &dyn Fn(&mut Value)| {
            let mut manifest = small();
            change(&mut manifest);
            refused += &refusal(&manifest);
            refused.push('\n');
        };
        refuse(&|manifest| manifest["parity_golden"] = 3.into());
        refuse(&|manifest| manifest["tokens"]["digest"] = "md5:d41d8cd98f00b204".into());
        refuse(&|manifest| manifest["tokens"]["digest"] = "blake3:af13".into());
        refuse(&|manifest| manifest["tokens"]["file"] = "../tokens.npy".into());
        refuse(&|manifest| manifest["positions"] = json!({"file": "positions.npy"}));
        refuse(&|manifest| manifest["stages"][0]["layout"] = "thd".into());
        refuse(&|manifest| manifest["stages"][0]["dtype"] = "fp8_e4m3".into());
        refuse(&|manifest| manifest["stages"][0]["content"] = json!({"sampled": {}}));
        refuse(&|manifest| {
            manifest["stages"][0]["content"] = json!({"statistics": {}});
        });
        insta::assert_snapshot!(refused);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_manifest_is_read_back_as_it_was_written(manifest in manifests()) {
            let (read, ignored) = parse(&manifest.to_json()).unwrap();
            prop_assert_eq!(read, manifest);
            prop_assert!(ignored.is_empty());
        }

        #[test]
        fn a_version_that_is_not_known_is_one_clear_error(version in any::<u32>()) {
            prop_assume!(version != 1 && version != 2);
            let mut manifest = small();
            manifest["parity_golden"] = version.into();
            let expected = format!(
                "golden.json: expected format version 1 or 2, found version {version}; use the parity \
                 that wrote it, or import the dump again"
            );
            prop_assert_eq!(refusal(&manifest), expected);
        }

        #[test]
        fn a_garbled_digest_is_one_clear_error(digest in "[a-z0-9]{0,8}:?[0-9a-f]{0,63}") {
            let mut manifest = small();
            manifest["tokens"]["digest"] = digest.clone().into();
            let refused = refusal(&manifest);
            let expected = format!("golden.json: expected a golden's manifest, found unknown digest {digest:?} ");
            prop_assert!(refused.starts_with(&expected), "{}", refused);
        }
    }
}
