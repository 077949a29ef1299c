//! Llama from megatron-core.
//!
//! Megatron fuses query, key and value per *group* of heads that share a key: rows
//! `[groups, heads/groups + 2, head_dim]`. Gate and up projection are one matrix, the gate first;
//! every rank has its rows of both. Both frameworks rotate halves, so rotary embeddings need no
//! permutation.

use crate::arch::ActivationName;
use crate::arch::arguments::Arguments;
use crate::arch::megatron::{require, unsupported, vocabulary};
use crate::arch::megatron_core::{
    EMBEDDING, HANDLED, ZERO_CENTRED, add_head, epsilon, gated_otherwise, groups, head_dim,
    is_tied, require_activation, zero_centred,
};
use crate::arch::recipe::{Recipe, Relayout, TensorRecipe, object};
use crate::arch::rope::{
    HIGH_FREQ_FACTOR, INTERPOLATION, LOW_FREQ_FACTOR, ORIGINAL_POSITIONS, ROPE_SCALING,
};
use crate::checkpoint::megatron::{MegatronCheckpoint, Partition};
use crate::error::Result;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// The architecture's name.
pub(super) const LLAMA: &str = "Llama";

pub(super) const ARGUMENTS: Arguments = Arguments {
    handled: &[
        HANDLED,
        &[
            "max_position_embeddings",
            "rotary_base",
            "rotary_percent",
            "rotary_seq_len_interpolation_factor",
            "seq_len_interpolation_factor",
            "rope_scaling",
            "rope_scaling_factor",
            "use_rope_scaling",
        ],
    ],
    without_effect: &[&[
        // transformers' Llama has no other dropout than attention's.
        "hidden_dropout",
        // Another word for `position_embedding_type`.
        "use_rotary_position_embeddings",
        // Of GELU; SiLU has one formula.
        "bias_activation_fusion",
        "bias_gelu_fusion",
        "openai_gelu",
        "use_te_activation_func",
        "use_transformer_engine_op_fuser",
    ]],
    required: &[
        &["hidden_size"],
        &["num_attention_heads"],
        &["num_query_groups", "group_query_attention"],
        &["num_layers"],
        &["ffn_hidden_size"],
        &["layernorm_epsilon", "norm_epsilon"],
        &["swiglu", "activation_func"],
        &["position_embedding_type"],
        &["max_position_embeddings"],
        &["rotary_base"],
        &["rotary_percent"],
    ],
    required_by: &[
        ("group_query_attention", "num_query_groups"),
        ("use_rope_scaling", "rope_scaling_factor"),
        ("rope_scaling", "rope_scaling_factor"),
    ],
    off: &[
        &["apply_layernorm_1p", "layernorm_zero_centered_gamma"],
        &INTERPOLATION,
        &ROPE_SCALING,
    ],
};

pub(super) fn recipe(checkpoint: &MegatronCheckpoint, tokens: Option<usize>) -> Result<Recipe> {
    use Partition::{Axis, Gated, Replicated};
    let args = checkpoint.args();
    let refuse = |argument| unsupported(checkpoint, LLAMA, argument);
    require(checkpoint, LLAMA, "normalization", "RMSNorm")?;
    require(checkpoint, LLAMA, "position_embedding_type", "rope")?;
    require_activation(checkpoint, LLAMA, ActivationName::Silu)?;
    if let Some(otherwise) = gated_otherwise(checkpoint, true)? {
        return Err(refuse(otherwise));
    }
    if args.number("rotary_percent")? != 1.0 {
        return Err(refuse("rotary_percent"));
    }
    let hidden = args.size("hidden_size")?;
    let heads = args.size("num_attention_heads")?;
    let layers = args.layers()?;
    let wide = args.size("ffn_hidden_size")?;
    let head_dim = head_dim(checkpoint, hidden, heads)?;
    let groups = groups(checkpoint, heads)?;
    let epsilon = epsilon(checkpoint)?;
    let biases = args.flag_or("add_bias_linear", false)?;
    let less_one = zero_centred(checkpoint)?;
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
            let norm = TensorRecipe::plain(target(ours), source(theirs), Replicated, &[hidden]);
            tensors.push(norm.less_one(less_one));
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
    let norm = TensorRecipe::plain("model.norm.weight", norm, Replicated, &[hidden]);
    tensors.push(norm.less_one(less_one));
    let embedding = tied.then_some("model.embed_tokens.weight");
    let copies = add_head(&mut tensors, embedding, [padded, hidden], vocabulary);

    let theta = args.number("rotary_base")?;
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
        "attention_dropout": args.dropout("attention_dropout")?,
        "tie_word_embeddings": tied,
    });
    Ok(Recipe {
        config: object(config),
        tensors,
        copies,
        notes: less_one.then(|| ZERO_CENTRED.into()).into_iter().collect(),
    })
}

fn rotary_scaling(checkpoint: &MegatronCheckpoint) -> Result<Option<Map<String, Value>>> {
    let args = checkpoint.args();
    let scaled = match args.named(&ROPE_SCALING)? {
        Some(name) => args.flag_or(name, false)?,
        None => false,
    };
    if let Some(name) = args.named(&INTERPOLATION)? {
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
        "factor": args.number("rope_scaling_factor")?,
        "low_freq_factor": LOW_FREQ_FACTOR,
        "high_freq_factor": HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": ORIGINAL_POSITIONS,
    }))))
}
