//! Mixtral: experts in place of MLPs, of whose scores the chosen ones' are normalized.

use super::decoder::{
    Converting, DecoderConfig, Defaults, EXPERT_ARGUMENTS, ExpertNames, Experts, Features,
    Relative, shared_settings, stages,
};
use super::recipe::object;
use super::stage::Table;
use super::{ModelConfig, Settings};
use crate::error::Result;
use crate::op::RouterScores;
use serde_json::{Map, Value, json};

pub(super) struct Mixtral;

const DEFAULTS: Defaults = Defaults {
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(8),
    head_dim: None,
    vocab_size: 32_000,
    max_position_embeddings: 131_072,
    rms_norm_eps: 1e-5,
    rope_theta: 1e6,
};

/// Names of the number of experts, the second of later configs.
const COUNT: [&str; 2] = ["num_local_experts", "num_experts"];

/// What a router may say that a Mixtral's does not.
const PLAIN: [&str; 6] = [
    "moe_router_pre_softmax",
    "moe_router_score_function",
    "moe_router_num_groups",
    "moe_router_topk_scaling_factor",
    "moe_shared_expert_intermediate_size",
    "moe_layer_freq",
];

impl Relative for Mixtral {
    const NAME: &'static str = "Mixtral";
    const MODEL_TYPE: &'static str = "mixtral";
    const CLASS: &'static str = "MixtralForCausalLM";
    const FEATURES: Features = Features {
        experts: true,
        ..Features::NONE
    };
    const SHOWN_BY: &'static str = "the same, and a router";
    const STAGES: Table = &[
        stages::EMBEDDINGS,
        stages::QKV,
        stages::ROTATED,
        stages::ATTENTION,
        stages::MLP,
        stages::EXPERTS,
        stages::SUM_OF_EXPERTS,
        stages::BLOCKS,
    ];
    const ARGUMENTS: &'static super::Arguments = &EXPERT_ARGUMENTS;

    fn model(config: DecoderConfig) -> ModelConfig {
        ModelConfig::Mixtral(config)
    }

    fn experts(experts: Experts) -> Experts {
        Experts {
            names: ExpertNames::BlockSparse,
            ..experts
        }
    }

    fn read(settings: &Settings<'_>) -> Result<DecoderConfig> {
        settings.refuse("sliding_window")?;
        let config = shared_settings(settings, &DEFAULTS)?;
        Ok(DecoderConfig {
            experts: Some(Experts {
                count: settings.size_or(&COUNT, 8)?,
                chosen: settings.size_or(&["num_experts_per_tok"], 2)?,
                intermediate_size: config.intermediate_size,
                scores: RouterScores::Softmax,
                normalized: true,
                scaling: 1.0,
                groups: None,
                correction_bias: false,
                shared_size: None,
                dense_layers: Vec::new(),
                fp32_router: false,
                rounded_weights: false,
                names: ExpertNames::BlockSparse,
            }),
            ..config
        })
    }

    fn settings(converting: &Converting<'_>) -> Result<Map<String, Value>> {
        converting.refuse_biases::<Self>()?;
        let experts = converting.experts::<Self>()?;
        let is_plain = experts.normalized
            && experts.scores == RouterScores::Softmax
            && experts.groups.is_none()
            && experts.scaling == 1.0
            && experts.shared_size.is_none()
            && experts.dense_layers.is_empty();
        if !is_plain {
            return Err(converting.unlike::<Self>(&PLAIN));
        }
        Ok(object(json!({
            "intermediate_size": experts.intermediate_size,
            "num_local_experts": experts.count,
            "num_experts_per_tok": experts.chosen,
            "output_router_logits": false,
            "router_jitter_noise": 0.0,
            "sliding_window": null,
        })))
    }
}
