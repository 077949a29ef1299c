//! Llama from megatron-core.
//!
//! Megatron fuses query, key and value per *group* of heads that share a key: rows
//! `[groups, heads/groups + 2, head_dim]`. Gate and up projection are one matrix, the gate first;
//! every rank has its rows of both. Both frameworks rotate halves, so rotary embeddings need no
//! permutation.

use crate::arch::ActivationName;
use crate::arch::megatron::{unsupported, vocabulary};
use crate::arch::megatron_core::{
    EMBEDDING, HEAD, epsilon, is_tied, refuse_flags, require, require_activation,
};
use crate::arch::recipe::{Recipe, Relayout, TensorRecipe, object};
use crate::arch::rope::{HIGH_FREQ_FACTOR, INTERPOLATION, LOW_FREQ_FACTOR, ORIGINAL_POSITIONS};
use crate::checkpoint::megatron::{MegatronCheckpoint, Partition};
use crate::error::Result;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// The architecture's name.
pub(super) const LLAMA: &str = "Llama";

pub(super) fn recipe(checkpoint: &MegatronCheckpoint, tokens: Option<usize>) -> Result<Recipe> {
    use Partition::{Axis, Gated, Replicated};
    let args = checkpoint.args();
    let refuse = |argument| unsupported(checkpoint, LLAMA, argument);
    refuse_flags(
        checkpoint,
        LLAMA,
        &[
            "qk_layernorm",
            "add_qkv_bias",
            "rotary_interleaved",
            "squared_relu",
        ],
    )?;
    require(checkpoint, LLAMA, "normalization", "RMSNorm")?;
    require(checkpoint, LLAMA, "position_embedding_type", "rope")?;
    require_activation(checkpoint, LLAMA, ActivationName::Silu)?;
    let gated = match args.get("swiglu") {
        Some(_) => args.flag_or("swiglu", true)?,
        // TransformerConfig's name of it.
        None => args.flag_or("gated_linear_unit", true)?,
    };
    if !gated {
        return Err(refuse("swiglu"));
    }
    if args.number_or("rotary_percent", 1.0)? != 1.0 {
        return Err(refuse("rotary_percent"));
    }
    let hidden = args.size("hidden_size")?;
    let heads = args.size("num_attention_heads")?;
    let layers = args.layers()?;
    let wide = args.size("ffn_hidden_size")?;
    let head_dim = args
        .optional_size("kv_channels")?
        .unwrap_or((hidden / heads).max(1));
    // Without the flag Megatron-LM's num_query_groups is its default, 1, and means nothing.
    let grouped = args.flag_or("group_query_attention", true)?;
    let groups = args
        .optional_size("num_query_groups")?
        .filter(|_| grouped)
        .unwrap_or(heads);
    if heads % groups != 0 {
        return Err(args.fault("num_query_groups", &format!("a divisor of {heads} heads")));
    }
    let epsilon = epsilon(checkpoint)?;
    let biases = args.flag_or("add_bias_linear", false)?;
    let tied = is_tied(checkpoint)?;
    let (padded, vocabulary) = vocabulary(checkpoint, EMBEDDING, tokens)?;

    let mut tensors = vec![
        TensorRecipe::plain(
            "model.embed_tokens.weight",
            EMBEDDING,
            Axis(0),
            &[padded, hidden],
        )
        .first_rows(vocabulary),
    ];
    let queries = heads / groups;
    let fused_rows = (queries + 2) * groups * head_dim;
    for layer in 0..layers {
        let target = |name: &str| format!("model.layers.{layer}.{name}");
        let source = |name: &str| format!("decoder.layers.{layer}.{name}");
        for (ours, theirs) in [
            ("input_layernorm.weight", "input_layernorm.weight"),
            (
                "post_attention_layernorm.weight",
                "pre_mlp_layernorm.weight",
            ),
        ] {
            tensors.push(TensorRecipe::plain(
                target(ours),
                source(theirs),
                Replicated,
                &[hidden],
            ));
        }
        let parts: &[&str] = if biases {
            &["weight", "bias"]
        } else {
            &["weight"]
        };
        for part in parts {
            // Weights have one axis more.
            let columns = if *part == "weight" {
                vec![hidden]
            } else {
                Vec::new()
            };
            let shape = |rows: usize| [vec![rows], columns.clone()].concat();

            let fused = source(&format!("self_attention.linear_qkv.{part}"));
            let of_group: [(&str, Range<usize>); 3] = [
                ("q_proj", 0..queries),
                ("k_proj", queries..queries + 1),
                ("v_proj", queries + 1..queries + 2),
            ];
            for (name, range) in of_group {
                let rows = range.len() * groups * head_dim;
                let relayout = vec![
                    Relayout::Split {
                        axis: 0,
                        inner: head_dim,
                    },
                    Relayout::Split {
                        axis: 0,
                        inner: queries + 2,
                    },
                    Relayout::Keep { axis: 1, range },
                ];
                let name = target(&format!("self_attn.{name}.{part}"));
                let fused = TensorRecipe::plain(name, fused.clone(), Axis(0), &shape(fused_rows));
                tensors.push(fused.by(relayout, &shape(rows)));
            }
            let row_parallel = if *part == "weight" {
                Axis(1)
            } else {
                Replicated
            };
            let narrow = |rows: usize, inner: usize| {
                if *part == "weight" {
                    vec![rows, inner]
                } else {
                    vec![rows]
                }
            };
            tensors.push(TensorRecipe::plain(
                target(&format!("self_attn.o_proj.{part}")),
                source(&format!("self_attention.linear_proj.{part}")),
                row_parallel,
                &narrow(hidden, heads * head_dim),
            ));
            for (index, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                let keep = Relayout::Keep {
                    axis: 0,
                    range: index..index + 1,
                };
                let both = source(&format!("mlp.linear_fc1.{part}"));
                let both_shape = [vec![2, wide], columns.clone()].concat();
                let name = target(&format!("mlp.{name}.{part}"));
                let both = TensorRecipe::plain(name, both, Gated, &both_shape);
                tensors.push(both.by(vec![keep], &shape(wide)));
            }
            tensors.push(TensorRecipe::plain(
                target(&format!("mlp.down_proj.{part}")),
                source(&format!("mlp.linear_fc2.{part}")),
                row_parallel,
                &narrow(hidden, wide),
            ));
        }
    }
    let norm = "decoder.final_layernorm.weight";
    tensors.push(TensorRecipe::plain(
        "model.norm.weight",
        norm,
        Replicated,
        &[hidden],
    ));
    // The last pipeline stage keeps a copy of a tied embedding.
    let target = if tied {
        "model.embed_tokens.weight"
    } else {
        "lm_head.weight"
    };
    let head = TensorRecipe::plain(target, HEAD, Axis(0), &[padded, hidden]);
    let head = head.first_rows(vocabulary);
    let copies = if tied {
        vec![head]
    } else {
        tensors.push(head);
        Vec::new()
    };

    let theta = args.number_or("rotary_base", 10_000.0)?;
    let scaling = rotary_scaling(checkpoint)?;
    let mut rope = object(json!({ "rope_type": "default", "rope_theta": theta }));
    rope.extend(scaling.clone().unwrap_or_default());
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head_dim,
        "rms_norm_eps": epsilon,
        // transformers 5 reads rope_parameters, earlier versions the two before it.
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rope_parameters": rope,
        "max_position_embeddings": args.size("max_position_embeddings")?,
        "hidden_act": "silu",
        "attention_bias": biases,
        "mlp_bias": biases,
        "attention_dropout": args.number_or("attention_dropout", 0.0)?,
        "tie_word_embeddings": tied,
    });
    Ok(Recipe {
        config: object(config),
        tensors,
        copies,
        notes: Vec::new(),
    })
}

fn rotary_scaling(checkpoint: &MegatronCheckpoint) -> Result<Option<Map<String, Value>>> {
    let args = checkpoint.args();
    let scaled = match args.get("use_rope_scaling") {
        Some(_) => args.flag_or("use_rope_scaling", false)?,
        // GPTModel's name of it.
        None => args.flag_or("rope_scaling", false)?,
    };
    let given = INTERPOLATION.iter().find(|name| args.get(name).is_some());
    if let Some(name) = given {
        let factor = args.number(name)?;
        if factor != 1.0 {
            // transformers has one scaling or the other.
            if scaled || factor <= 0.0 {
                return Err(unsupported(checkpoint, LLAMA, name));
            }
            let linear = json!({"rope_type": "linear", "factor": factor});
            return Ok(Some(object(linear)));
        }
    }
    if !scaled {
        return Ok(None);
    }
    Ok(Some(object(json!({
        "rope_type": "llama3",
        "factor": args.number_or("rope_scaling_factor", 8.0)?,
        "low_freq_factor": LOW_FREQ_FACTOR,
        "high_freq_factor": HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": ORIGINAL_POSITIONS,
    }))))
}
