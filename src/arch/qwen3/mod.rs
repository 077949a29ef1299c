//! Qwen3: the heads of queries and keys are normalized, and may be wider than the hidden size.

use super::decoder::{
    ARGUMENTS, Converting, DecoderConfig, Defaults, Experts, Features, Relative, refuse_window,
    shared_settings, stages,
};
use super::recipe::object;
use super::stage::Table;
use super::{ModelConfig, Settings};
use crate::error::Result;
use serde_json::{Map, Value, json};

pub(super) struct Qwen3;

const DEFAULTS: Defaults = Defaults {
    hidden_size: 4096,
    intermediate_size: 22_016,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(32),
    head_dim: Some(128),
    vocab_size: 151_936,
    max_position_embeddings: 32_768,
    rms_norm_eps: 1e-6,
    rope_theta: 1e4,
};

impl Relative for Qwen3 {
    const NAME: &'static str = "Qwen3";
    const MODEL_TYPE: &'static str = "qwen3";
    const CLASS: &'static str = "Qwen3ForCausalLM";
    const FEATURES: Features = Features {
        qk_norm: true,
        ..Features::NONE
    };
    const SHOWN_BY: &'static str = "the same, and norms of queries and keys";
    const STAGES: Table = &[
        stages::EMBEDDINGS,
        stages::QKV,
        stages::QK_NORMS,
        stages::ROTATED,
        stages::ATTENTION,
        stages::MLP,
        stages::BLOCKS,
    ];
    const ARGUMENTS: &'static super::Arguments = &ARGUMENTS;

    fn model(config: DecoderConfig) -> ModelConfig {
        ModelConfig::Qwen3(config)
    }

    fn experts(experts: Experts) -> Experts {
        experts
    }

    fn read(settings: &Settings<'_>) -> Result<DecoderConfig> {
        refuse_window(settings)?;
        Ok(DecoderConfig {
            attention_bias: settings.flag_or(&["attention_bias"], false)?,
            qk_norm: true,
            ..shared_settings(settings, &DEFAULTS)?
        })
    }

    fn settings(converting: &Converting<'_>) -> Result<Map<String, Value>> {
        converting.refuse_biases::<Self>()?;
        let attention =
            json!({ "attention_bias": false, "use_sliding_window": false, "sliding_window": null });
        Ok(object(attention))
    }
}
