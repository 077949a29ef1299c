//! Names of transformers' BLOOM: module paths with `[batch, sequence, ·]` outputs.

use super::described::{Described, Names};
use super::raw::RawDump;
use crate::error::Result;
use crate::golden::manifest::{Join, Layout};
use crate::model::ConvertedConfig;
use crate::plan::{Arithmetic, Form};
use crate::tensor::DType;
use std::path::Path;

/// Hooked names that are not simply `<stage>.output`. `BloomMLP` adds the residual, so its output
/// is the block's; `BloomAttention` likewise.
const RENAMED: &[(&str, &str)] = &[
    ("self_attention.dense.input", "self_attention.context"),
    ("mlp.gelu_impl.output", "mlp.gelu"),
    ("mlp.dense_4h_to_h.input", "mlp.gelu"),
    ("mlp.output", ""),
];

/// Reads the settings that transformers' dumps come with; the model's own are in the folder that
/// `model` names.
pub(super) fn describe(dump: &RawDump) -> Result<Described> {
    let model: String = dump.setting("model", "the path of the model folder")?;
    let beside = dump.config_path().parent().unwrap_or(Path::new(""));
    let config = ConvertedConfig::read(&beside.join(model).join("config.json"))?;
    Ok(Described {
        framework: "transformers",
        model: config.model,
        dtype: dump.setting::<DType>("dtype", "fp32, fp16 or bf16")?,
        arithmetic: Arithmetic::Transformers(config.arithmetic),
        ranks: 1,
        names: Box::new(ModuleNames),
    })
}

struct ModuleNames;

impl Names for ModuleNames {
    fn stage(&self, name: &str) -> Option<(String, Layout, Join, Form)> {
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
        Some((stage, layout, Join::Replicated, Form::PLAIN))
    }
}

/// `h.7.mlp.output` → block 7 and `mlp.output`.
fn block_and_rest(name: &str) -> Option<(usize, &str)> {
    let (block, rest) = name.strip_prefix("h.")?.split_once('.')?;
    Some((block.parse().ok()?, rest))
}
