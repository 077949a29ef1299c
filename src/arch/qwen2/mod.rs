//! Qwen2 and Qwen2.5: queries, keys and values have biases.

use super::decoder::{
    ARGUMENTS, Converting, DecoderConfig, Defaults, Experts, Features, Relative, refuse_window,
    shared_settings, stages,
};
use super::recipe::object;
use super::stage::Table;
use super::{ModelConfig, Settings};
use crate::error::Result;
use serde_json::{Map, Value, json};

pub(super) struct Qwen2;

const DEFAULTS: Defaults = Defaults {
    hidden_size: 4096,
    intermediate_size: 22_016,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(32),
    head_dim: None,
    vocab_size: 151_936,
    max_position_embeddings: 32_768,
    rms_norm_eps: 1e-6,
    rope_theta: 1e4,
};

impl Relative for Qwen2 {
    const NAME: &'static str = "Qwen2";
    const MODEL_TYPE: &'static str = "qwen2";
    const CLASS: &'static str = "Qwen2ForCausalLM";
    const FEATURES: Features = Features {
        qkv_bias: true,
        ..Features::NONE
    };
    const SHOWN_BY: &'static str = "the same, and biases of queries, keys and values alone";
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
        ModelConfig::Qwen2(config)
    }

    fn experts(experts: Experts) -> Experts {
        experts
    }

    fn read(settings: &Settings<'_>) -> Result<DecoderConfig> {
        refuse_window(settings)?;
        Ok(DecoderConfig {
            qkv_bias: true,
            ..shared_settings(settings, &DEFAULTS)?
        })
    }

    fn settings(converting: &Converting<'_>) -> Result<Map<String, Value>> {
        converting.refuse_biases::<Self>()?;
        Ok(object(
            json!({ "use_sliding_window": false, "sliding_window": null }),
        ))
    }
}
