//! Names of transformers' BLOOM: module paths with `[batch, sequence, ·]` outputs.

use super::described::{Described, Names};
use super::raw::RawDump;
use crate::error::Result;
use crate::golden::manifest::{Join, Layout};
use crate::model::ConvertedConfig;
use crate::plan::{Arithmetic, TransformersArithmetic, Variant};
use crate::tensor::DType;
use std::path::Path;

/// Hooked names that are not simply `<stage>.output`. `BloomMLP` adds the residual, so its output
/// is the block's; `BloomAttention` likewise.
const RENAMED: &[(&str, &str)] = &[
    ("self_attention.dense.input", "self_attention.context"),
    // Without dropout, what goes in comes out.
    (
        "self_attention.attention_dropout.output",
        "self_attention.probs",
    ),
    ("post_attention_layernorm.input", "self_attention"),
    ("mlp.gelu_impl.output", "mlp.gelu"),
    ("mlp.dense_4h_to_h.input", "mlp.gelu"),
    ("mlp.output", ""),
];

/// Reads the settings that transformers' dumps come with: the model's own, or the folder that
/// `model` names.
pub(super) fn describe(dump: &RawDump) -> Result<Described> {
    let config = match dump.is_described() {
        true => ConvertedConfig::from_settings(dump.config_path(), dump.config().clone())?,
        false => of_folder(dump)?,
    };
    Ok(Described {
        framework: "transformers",
        dtype: dump.setting::<DType>(&["dtype"], "fp32, fp16 or bf16")?,
        arithmetic: Arithmetic::Transformers(TransformersArithmetic {
            use_cache: used_cache(dump)?,
            ..config.arithmetic
        }),
        ranks: 1,
        names: Box::new(ModuleNames {
            prefix: config.model.base_prefix(),
        }),
        model: config.model,
    })
}

/// Whether keys and values went through a cache, of a run on a GPU: elsewhere it changes nothing.
fn used_cache(dump: &RawDump) -> Result<bool> {
    #[derive(serde::Deserialize)]
    struct GpuStats {
        use_cache: Option<bool>,
    }
    let ran =
        dump.optional::<GpuStats>(&["numerics"], "settings with use_cache of true or false")?;
    let cached = ran.and_then(|ran| ran.use_cache);
    Ok(dump.is_of_a_gpu() && cached.unwrap_or(false))
}

/// The configuration in the folder that was run, with what was set for this run.
fn of_folder(dump: &RawDump) -> Result<ConvertedConfig> {
    let model: String = dump.setting(&["model"], "the path of the model folder")?;
    let beside = dump.config_path().parent().unwrap_or(Path::new(""));
    let path = beside.join(model).join("config.json");
    let mut settings = ConvertedConfig::settings(&path)?;
    for key in ["slow_but_exact", "pretraining_tp"] {
        let value = dump
            .config()
            .get(key)
            .map(|value| (key.to_owned(), value.clone()));
        settings.extend(value);
    }
    ConvertedConfig::from_settings(&path, settings)
}

struct ModuleNames {
    prefix: &'static str,
}

impl Names for ModuleNames {
    fn stage(&self, name: &str) -> Option<(String, Layout, Join, Variant)> {
        let name = name.strip_prefix(self.prefix).unwrap_or(name);
        let stage = match block_and_rest(name) {
            Some((block, rest)) => match RENAMED.iter().find(|(hooked, _)| *hooked == rest) {
                Some((_, "")) => format!("h.{block}"),
                Some((_, stage)) => format!("h.{block}.{stage}"),
                None => name.strip_suffix(".output")?.to_owned(),
            },
            None if name == "lm_head.output" => "logits".to_owned(),
            None => name.strip_suffix(".output")?.to_owned(),
        };
        let layout = match stage.ends_with(".probs") || stage.ends_with(".scores") {
            true => Layout::Bnss,
            false => Layout::Bsh,
        };
        Some((stage, layout, Join::Replicated, Variant::PLAIN))
    }
}

/// `h.7.mlp.output` → block 7 and `mlp.output`.
fn block_and_rest(name: &str) -> Option<(usize, &str)> {
    let (block, rest) = name.strip_prefix("h.")?.split_once('.')?;
    Some((block.parse().ok()?, rest))
}
