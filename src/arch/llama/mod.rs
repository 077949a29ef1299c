//! Llama: a decoder whose layers all have biases, or none.

use super::decoder::{
    ARGUMENTS, Converting, DecoderConfig, Defaults, Experts, Features, Relative, shared_settings,
    stages,
};
use super::recipe::object;
use super::stage::Table;
use super::{ModelConfig, Settings};
use crate::error::Result;
use serde_json::{Map, Value, json};

pub(super) struct Llama;

const DEFAULTS: Defaults = Defaults {
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    head_dim: None,
    vocab_size: 32_000,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 1e4,
};

impl Relative for Llama {
    const NAME: &'static str = "Llama";
    const MODEL_TYPE: &'static str = "llama";
    const CLASS: &'static str = "LlamaForCausalLM";
    const FEATURES: Features = Features::NONE;
    const SHOWN_BY: &'static str = "no position embeddings and norms without biases";
    const STAGES: Table = &[
        stages::EMBEDDINGS,
        stages::QKV,
        stages::ROTATED,
        stages::ATTENTION,
        stages::MLP,
        stages::BLOCKS,
    ];
    const ARGUMENTS: &'static super::Arguments = &ARGUMENTS;

    fn model(config: DecoderConfig) -> ModelConfig {
        ModelConfig::Llama(config)
    }

    fn experts(experts: Experts) -> Experts {
        experts
    }

    fn read(settings: &Settings<'_>) -> Result<DecoderConfig> {
        Ok(DecoderConfig {
            attention_bias: settings.flag_or(&["attention_bias"], false)?,
            mlp_bias: settings.flag_or(&["mlp_bias"], false)?,
            ..shared_settings(settings, &DEFAULTS)?
        })
    }

    fn settings(converting: &Converting<'_>) -> Result<Map<String, Value>> {
        let biases = converting.biases;
        Ok(object(
            json!({ "attention_bias": biases, "mlp_bias": biases }),
        ))
    }
}
