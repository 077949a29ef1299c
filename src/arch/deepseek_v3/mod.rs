//! DeepSeek-V3: latent attention, and experts that are chosen in groups, by the sigmoid of their logits and a bias.

use super::decoder::{
    Converting, DecoderConfig, Defaults, ExpertGroups, ExpertNames, Experts, Features,
    LATENT_ARGUMENTS, LatentAttention, Relative, shared_settings, stages,
};
use super::recipe::object;
use super::stage::Table;
use super::{ModelConfig, Settings, rope};
use crate::error::Result;
use crate::op::{RopeScaling, RouterScores};
use serde_json::{Map, Value, json};

pub(super) struct DeepseekV3;

const DEFAULTS: Defaults = Defaults {
    hidden_size: 7168,
    intermediate_size: 18_432,
    num_hidden_layers: 61,
    num_attention_heads: 128,
    num_key_value_heads: None,
    head_dim: None,
    vocab_size: 129_280,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-6,
    rope_theta: 1e4,
};

/// Names of the number of experts, the second of later configs.
const COUNT: [&str; 2] = ["n_routed_experts", "num_local_experts"];

impl Relative for DeepseekV3 {
    const NAME: &'static str = "DeepSeek-V3";
    const MODEL_TYPE: &'static str = "deepseek_v3";
    const CLASS: &'static str = "DeepseekV3ForCausalLM";
    const FEATURES: Features = Features {
        latent: true,
        experts: true,
        ..Features::NONE
    };
    const SHOWN_BY: &'static str = "a router, and latents of keys and values";
    const STAGES: Table = &[
        stages::EMBEDDINGS,
        stages::LATENTS,
        stages::ATTENTION,
        stages::MLP,
        stages::EXPERTS,
        stages::SHARED_EXPERTS,
        stages::BLOCKS,
    ];
    const ARGUMENTS: &'static super::Arguments = &LATENT_ARGUMENTS;

    fn model(config: DecoderConfig) -> ModelConfig {
        ModelConfig::DeepseekV3(config)
    }

    fn experts(experts: Experts) -> Experts {
        Experts {
            fp32_router: true,
            ..experts
        }
    }

    fn read(settings: &Settings<'_>) -> Result<DecoderConfig> {
        settings.refuse_flag("attention_bias")?;
        let config = shared_settings(settings, &DEFAULTS)?;
        let rotary_dim = settings.size_or(&["qk_rope_head_dim"], 64)?;
        let positions = settings.size_or(&["max_position_embeddings"], 4096)?;
        let rope = rope::of_transformers(settings, rotary_dim, positions, DEFAULTS.rope_theta)?;
        let wide = settings.size_or(&["moe_intermediate_size"], 2048)?;
        let shared = settings.size_or(&["n_shared_experts"], 1)?;
        let dense = settings.size_or(&["first_k_dense_replace"], 3)?;
        let is_ranked = settings.is_given("q_lora_rank");
        let latent = LatentAttention {
            query_rank: match is_ranked {
                true => settings.optional_size(&["q_lora_rank"])?,
                false => Some(1536),
            },
            key_value_rank: settings.size_or(&["kv_lora_rank"], 512)?,
            plain_dim: settings.size_or(&["qk_nope_head_dim"], 128)?,
            rotary_dim,
            value_dim: settings.size_or(&["v_head_dim"], 128)?,
            interleaved: settings.flag_or(&["rope_interleave"], true)?,
            mscale: match rope.scaling {
                RopeScaling::None => 1.0,
                _ => rope::mscale_of_transformers(settings)?,
            },
        };
        Ok(DecoderConfig {
            num_key_value_heads: config.num_attention_heads,
            head_dim: latent.plain_dim.saturating_add(rotary_dim),
            rope,
            experts: Some(Experts {
                count: settings.size_or(&COUNT, 256)?,
                chosen: settings.size_or(&["num_experts_per_tok"], 8)?,
                intermediate_size: wide,
                scores: RouterScores::Sigmoid,
                normalized: settings.flag_or(&["norm_topk_prob"], true)?,
                scaling: settings.number_or(&["routed_scaling_factor"], 2.5)?,
                groups: Some(ExpertGroups {
                    count: settings.size_or(&["n_group"], 8)?,
                    chosen: settings.size_or(&["topk_group"], 4)?,
                }),
                correction_bias: true,
                shared_size: Some(wide.saturating_mul(shared)),
                dense_layers: (0..dense.min(config.num_hidden_layers)).collect(),
                fp32_router: true,
                rounded_weights: false,
                names: ExpertNames::Mlp,
            }),
            latent: Some(latent),
            ..config
        })
    }

    fn settings(converting: &Converting<'_>) -> Result<Map<String, Value>> {
        converting.refuse_biases::<Self>()?;
        let experts = converting.experts::<Self>()?;
        let latent = converting.latent::<Self>()?;
        let shared = experts.shared_size.unwrap_or(0);
        // transformers has one group where Megatron names none; it takes the two best of each.
        let groups = experts.groups.unwrap_or(ExpertGroups {
            count: 1,
            chosen: 1,
        });
        let first = experts
            .dense_layers
            .iter()
            .copied()
            .eq(0..experts.dense_layers.len());
        for (holds, argument) in [
            (
                experts.scores == RouterScores::Sigmoid,
                "moe_router_score_function",
            ),
            (experts.correction_bias, "moe_router_enable_expert_bias"),
            (experts.normalized, "moe_router_topk"),
            (first, "moe_layer_freq"),
            (
                shared > 0 && shared.is_multiple_of(experts.intermediate_size),
                "moe_shared_expert_intermediate_size",
            ),
            (
                groups.count == 1 || experts.chosen == 2 * groups.chosen,
                "moe_router_group_topk",
            ),
        ] {
            if !holds {
                return Err(converting.unlike::<Self>(&[argument]));
            }
        }
        Ok(object(json!({
            // transformers' rotary embeddings read it.
            "head_dim": latent.rotary_dim,
            "num_key_value_heads": converting.heads(),
            "attention_bias": false,
            "q_lora_rank": latent.query_rank,
            "kv_lora_rank": latent.key_value_rank,
            "qk_nope_head_dim": latent.plain_dim,
            "qk_rope_head_dim": latent.rotary_dim,
            "qk_head_dim": latent.plain_dim + latent.rotary_dim,
            "v_head_dim": latent.value_dim,
            "rope_interleave": true,
            "n_routed_experts": experts.count,
            "num_local_experts": experts.count,
            "num_experts_per_tok": experts.chosen,
            "moe_intermediate_size": experts.intermediate_size,
            "n_shared_experts": shared / experts.intermediate_size,
            "first_k_dense_replace": experts.dense_layers.len(),
            "n_group": groups.count,
            "topk_group": groups.chosen,
            "norm_topk_prob": true,
            "routed_scaling_factor": experts.scaling,
            "num_nextn_predict_layers": 0,
            "pretraining_tp": 1,
        })))
    }
}
