//! Qwen3-MoE: a Qwen3 with experts in place of some MLPs.

use super::decoder::{
    Converting, DecoderConfig, Defaults, EXPERT_ARGUMENTS, ExpertNames, Experts, Features,
    Relative, refuse_window, shared_settings, stages,
};
use super::recipe::object;
use super::stage::Table;
use super::{ModelConfig, Settings};
use crate::error::Result;
use crate::op::RouterScores;
use serde_json::{Map, Value, json};

pub(super) struct Qwen3Moe;

const DEFAULTS: Defaults = Defaults {
    hidden_size: 2048,
    intermediate_size: 6144,
    num_hidden_layers: 24,
    num_attention_heads: 32,
    num_key_value_heads: Some(4),
    head_dim: None,
    vocab_size: 151_936,
    max_position_embeddings: 32_768,
    rms_norm_eps: 1e-6,
    rope_theta: 1e4,
};

/// Names of the number of experts, the second of later configs.
const COUNT: [&str; 2] = ["num_experts", "num_local_experts"];
/// Layers beyond which none is named; more are refused.
const MOST_LAYERS: usize = 1 << 16;

/// What a router may say that a Qwen3-MoE's does not.
const PLAIN: [&str; 4] = [
    "moe_router_score_function",
    "moe_router_num_groups",
    "moe_router_topk_scaling_factor",
    "moe_shared_expert_intermediate_size",
];

impl Relative for Qwen3Moe {
    const NAME: &'static str = "Qwen3-MoE";
    const MODEL_TYPE: &'static str = "qwen3_moe";
    const CLASS: &'static str = "Qwen3MoeForCausalLM";
    const FEATURES: Features = Features {
        qk_norm: true,
        experts: true,
        ..Features::NONE
    };
    const SHOWN_BY: &'static str = "a router, and norms of queries and keys";
    const STAGES: Table = &[
        stages::EMBEDDINGS,
        stages::QKV,
        stages::QK_NORMS,
        stages::ROTATED,
        stages::ATTENTION,
        stages::MLP,
        stages::EXPERTS,
        stages::SUM_OF_EXPERTS,
        stages::BLOCKS,
    ];
    const ARGUMENTS: &'static super::Arguments = &EXPERT_ARGUMENTS;

    fn model(config: DecoderConfig) -> ModelConfig {
        ModelConfig::Qwen3Moe(config)
    }

    fn experts(experts: Experts) -> Experts {
        Experts {
            rounded_weights: true,
            ..experts
        }
    }

    fn read(settings: &Settings<'_>) -> Result<DecoderConfig> {
        refuse_window(settings)?;
        let config = shared_settings(settings, &DEFAULTS)?;
        let every = settings.size_or(&["decoder_sparse_step"], 1)?;
        let only = settings.sizes("mlp_only_layers")?.unwrap_or_default();
        let is_dense = |layer: &usize| {
            only.contains(layer) || every == 0 || !(layer + 1).is_multiple_of(every)
        };
        let layers = config.num_hidden_layers.min(MOST_LAYERS);
        Ok(DecoderConfig {
            attention_bias: settings.flag_or(&["attention_bias"], false)?,
            qk_norm: true,
            experts: Some(Experts {
                count: settings.size_or(&COUNT, 128)?,
                chosen: settings.size_or(&["num_experts_per_tok"], 8)?,
                intermediate_size: settings.size_or(&["moe_intermediate_size"], 768)?,
                scores: RouterScores::Softmax,
                normalized: settings.flag_or(&["norm_topk_prob"], false)?,
                scaling: 1.0,
                groups: None,
                correction_bias: false,
                shared_size: None,
                dense_layers: (0..layers).filter(is_dense).collect(),
                fp32_router: false,
                rounded_weights: true,
                names: ExpertNames::Mlp,
            }),
            ..config
        })
    }

    fn settings(converting: &Converting<'_>) -> Result<Map<String, Value>> {
        converting.refuse_biases::<Self>()?;
        let experts = converting.experts::<Self>()?;
        let is_plain = experts.scores == RouterScores::Softmax
            && experts.groups.is_none()
            && experts.scaling == 1.0
            && experts.shared_size.is_none();
        if !is_plain {
            return Err(converting.unlike::<Self>(&PLAIN));
        }
        Ok(object(json!({
            "attention_bias": false,
            "num_experts": experts.count,
            "num_local_experts": experts.count,
            "num_experts_per_tok": experts.chosen,
            "moe_intermediate_size": experts.intermediate_size,
            "norm_topk_prob": experts.normalized,
            "decoder_sparse_step": 1,
            "mlp_only_layers": experts.dense_layers,
            "output_router_logits": false,
            "use_sliding_window": false,
            "sliding_window": null,
        })))
    }
}
