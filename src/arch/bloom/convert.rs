//! BLOOM from Megatron-DeepSpeed: the same tensors under slightly other names.
//!
//! Query, key and value stay fused per head, `view(heads, 3, head_dim, hidden)`, as transformers'
//! BLOOM wants them. Only embeddings, fused projections and MLP matrices are divided among ranks;
//! norms, and the biases that are added after the sum over ranks, are replicated.

use super::MEGATRON_EMBEDDING_EPSILON;
use crate::arch::arguments::{Arguments, OF_ROTATION};
use crate::arch::megatron::{last_word, unsupported, vocabulary};
use crate::arch::recipe::{Recipe, TensorRecipe, object};
use crate::checkpoint::megatron::{MegatronCheckpoint, Partition};
use crate::error::Result;
use serde_json::json;

/// The architecture's name.
pub(super) const BLOOM: &str = "BLOOM";

pub(super) const ARGUMENTS: Arguments = Arguments {
    handled: &[&[
        "hidden_size",
        "num_attention_heads",
        "num_layers",
        "ffn_hidden_size",
        "layernorm_epsilon",
        "position_embedding_type",
        "bias_gelu_fusion",
        "attention_dropout",
        "hidden_dropout",
        // In the order of roundings: the arithmetic of a run, not the model.
        "apply_query_key_layer_scaling",
        // transformers has the switch, too.
        "apply_residual_connection_post_layernorm",
    ]],
    without_effect: &[
        &[
            // Tensors show these.
            "embed_layernorm",
            "add_bias_linear",
            "kv_channels",
            // There are no embeddings of positions.
            "max_position_embeddings",
            "pretrain_causal_attention",
            // Of GELU without its kernel.
            "openai_gelu",
        ],
        // Nothing is rotated.
        OF_ROTATION,
    ],
    required: &[
        &["hidden_size"],
        &["num_attention_heads"],
        &["num_layers"],
        &["layernorm_epsilon"],
        &["position_embedding_type"],
        &["bias_gelu_fusion"],
    ],
    required_by: &[],
    off: &[&["apply_residual_connection_post_layernorm"]],
};

pub(super) fn recipe(checkpoint: &MegatronCheckpoint, tokens: Option<usize>) -> Result<Recipe> {
    use Partition::{Axis, Replicated};
    let args = checkpoint.args();
    let positions = args.text("position_embedding_type").unwrap_or_default();
    // By its name, or the number that the pickle of an enumeration holds.
    if last_word(&positions) != "alibi" && !positions.ends_with("PositionEmbeddingType(3)") {
        return Err(unsupported(checkpoint, BLOOM, "position_embedding_type"));
    }
    // Without its kernel Megatron computes GELU by erf.
    if !args.flag_or("bias_gelu_fusion", true)? {
        return Err(unsupported(checkpoint, BLOOM, "bias_gelu_fusion"));
    }
    let hidden = args.size("hidden_size")?;
    let heads = args.size("num_attention_heads")?;
    let layers = args.layers()?;
    let wide = args.optional_size("ffn_hidden_size")?.unwrap_or(4 * hidden);
    if wide != 4 * hidden {
        return Err(unsupported(checkpoint, BLOOM, "ffn_hidden_size"));
    }
    let epsilon = args.number("layernorm_epsilon")?;
    let (padded, vocabulary) = vocabulary(checkpoint, "word_embeddings.weight", tokens)?;

    let mut tensors = Vec::new();
    let mut add = |target: String, source: String, partition, shape: &[usize]| {
        tensors.push(TensorRecipe::plain(target, source, partition, shape));
    };
    let name = |name: &str| format!("transformer.{name}");
    add(
        name("word_embeddings.weight"),
        "word_embeddings.weight".into(),
        Axis(0),
        &[padded, hidden],
    );
    for part in ["weight", "bias"] {
        add(
            name(&format!("word_embeddings_layernorm.{part}")),
            format!("word_embeddings.norm.{part}"),
            Replicated,
            &[hidden],
        );
    }
    for layer in 0..layers {
        let blocks: [(&str, Partition, &[usize]); 12] = [
            ("input_layernorm.weight", Replicated, &[hidden]),
            ("input_layernorm.bias", Replicated, &[hidden]),
            (
                "self_attention.query_key_value.weight",
                Axis(0),
                &[3 * hidden, hidden],
            ),
            (
                "self_attention.query_key_value.bias",
                Axis(0),
                &[3 * hidden],
            ),
            ("self_attention.dense.weight", Axis(1), &[hidden, hidden]),
            ("self_attention.dense.bias", Replicated, &[hidden]),
            ("post_attention_layernorm.weight", Replicated, &[hidden]),
            ("post_attention_layernorm.bias", Replicated, &[hidden]),
            ("mlp.dense_h_to_4h.weight", Axis(0), &[wide, hidden]),
            ("mlp.dense_h_to_4h.bias", Axis(0), &[wide]),
            ("mlp.dense_4h_to_h.weight", Axis(1), &[hidden, wide]),
            ("mlp.dense_4h_to_h.bias", Replicated, &[hidden]),
        ];
        for (tensor, partition, shape) in blocks {
            let target = name(&format!("h.{layer}.{tensor}"));
            add(target, format!("layers.{layer}.{tensor}"), partition, shape);
        }
    }
    for part in ["weight", "bias"] {
        add(
            name(&format!("ln_f.{part}")),
            format!("final_layernorm.{part}"),
            Replicated,
            &[hidden],
        );
    }
    tensors[0] = tensors[0].clone().first_rows(vocabulary);

    let mut notes = Vec::new();
    if epsilon != MEGATRON_EMBEDDING_EPSILON {
        notes.push(format!(
            "Megatron's embedding LayerNorm has epsilon {MEGATRON_EMBEDDING_EPSILON:e} whatever the \
             arguments say; transformers' will have {epsilon:e} like all others"
        ));
    }
    let post = "apply_residual_connection_post_layernorm";
    let config = json!({
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "hidden_size": hidden,
        "n_layer": layers,
        "n_head": heads,
        "vocab_size": vocabulary,
        "layer_norm_epsilon": epsilon,
        "apply_residual_connection_post_layernorm": args.flag_or(post, false)?,
        "attention_dropout": args.dropout("attention_dropout")?,
        "hidden_dropout": args.dropout("hidden_dropout")?,
        "pretraining_tp": checkpoint.ranks(),
        "slow_but_exact": false,
        "tie_word_embeddings": true,
    });
    Ok(Recipe {
        config: object(config),
        tensors,
        copies: Vec::new(),
        notes,
    })
}
