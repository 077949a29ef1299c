//! GPT-2 from megatron-core.
//!
//! transformers' GPT-2 has `Conv1D` layers, whose weight is `[in, out]`, and keeps query, key and
//! value one after the other where Megatron has them per head.

use crate::arch::ActivationName;
use crate::arch::arguments::{Arguments, OF_ROTATION};
use crate::arch::megatron::{require, unsupported, vocabulary};
use crate::arch::megatron_core::{
    EMBEDDING, HANDLED, OTHER_GELUS, POSITIONS, ZERO_CENTRED, add_head, epsilon, gated_otherwise,
    groups, head_dim, is_tied, require_activation, zero_centred,
};
use crate::arch::recipe::{Recipe, Relayout, TensorRecipe, object};
use crate::checkpoint::megatron::{MegatronCheckpoint, Partition};
use crate::error::Result;
use serde_json::{Value, json};

/// The architecture's name.
pub(super) const GPT2: &str = "GPT-2";

pub(super) const ARGUMENTS: Arguments = Arguments {
    handled: &[
        HANDLED,
        &[
            "bias_gelu_fusion",
            "bias_activation_fusion",
            "openai_gelu",
            "use_te_activation_func",
            "use_transformer_engine_op_fuser",
            "hidden_dropout",
        ],
    ],
    without_effect: &[
        // The embedding of positions has as many rows.
        &["max_position_embeddings"],
        // Nothing is rotated.
        OF_ROTATION,
    ],
    required: &[
        &["hidden_size"],
        &["num_attention_heads"],
        &["num_layers"],
        &["layernorm_epsilon", "norm_epsilon"],
        // Megatron-LM's older arguments know no other than GELU.
        &["activation_func", "bias_gelu_fusion"],
        &["bias_gelu_fusion", "bias_activation_fusion"],
    ],
    required_by: &[("group_query_attention", "num_query_groups")],
    off: &[
        &["apply_layernorm_1p", "layernorm_zero_centered_gamma"],
        &["openai_gelu"],
    ],
};

/// The token that transformers' GPT-2 begins and ends texts with, unless told otherwise.
const END_OF_TEXT: usize = 50_256;

pub(super) fn recipe(checkpoint: &MegatronCheckpoint, tokens: Option<usize>) -> Result<Recipe> {
    use Partition::{Axis, Replicated};
    let args = checkpoint.args();
    let refuse = |argument| unsupported(checkpoint, GPT2, argument);
    if let Some(otherwise) = gated_otherwise(checkpoint, false)? {
        return Err(refuse(otherwise));
    }
    require(checkpoint, GPT2, "normalization", "LayerNorm")?;
    require(
        checkpoint,
        GPT2,
        "position_embedding_type",
        "learned_absolute",
    )?;
    require_activation(checkpoint, GPT2, ActivationName::Gelu)?;
    if !args.flag_or("add_bias_linear", true)? {
        return Err(refuse("add_bias_linear"));
    }
    let hidden = args.size("hidden_size")?;
    let heads = args.size("num_attention_heads")?;
    let layers = args.layers()?;
    let wide = args.optional_size("ffn_hidden_size")?.unwrap_or(4 * hidden);
    let epsilon = epsilon(checkpoint)?;
    let head_dim = head_dim(checkpoint, hidden, heads)?;
    if head_dim * heads != hidden {
        let expected =
            format!("hidden_size {hidden} by {heads} heads, as transformers' GPT-2 has it");
        return Err(args.fault("kv_channels", &expected));
    }
    if groups(checkpoint, heads)? != heads {
        return Err(refuse("num_query_groups"));
    }
    let less_one = zero_centred(checkpoint)?;
    let tied = is_tied(checkpoint)?;
    let (padded, vocabulary) = vocabulary(checkpoint, EMBEDDING, tokens)?;
    let positions = checkpoint
        .get(POSITIONS)
        .and_then(|listed| listed.shape.first());
    let positions = positions.copied().unwrap_or(0);

    let mut tensors = vec![
        TensorRecipe::plain(
            "transformer.wte.weight",
            EMBEDDING,
            Axis(0),
            &[padded, hidden],
        )
        .first_rows(vocabulary),
        TensorRecipe::plain(
            "transformer.wpe.weight",
            POSITIONS,
            Replicated,
            &[positions, hidden],
        ),
    ];
    for layer in 0..layers {
        let target = |name: &str| format!("transformer.h.{layer}.{name}");
        let source = |name: &str| format!("decoder.layers.{layer}.{name}");
        for (ours, theirs) in [("ln_1", "input_layernorm"), ("ln_2", "pre_mlp_layernorm")] {
            for part in ["weight", "bias"] {
                let norm = TensorRecipe::plain(
                    target(&format!("{ours}.{part}")),
                    source(&format!("{theirs}.{part}")),
                    Replicated,
                    &[hidden],
                );
                tensors.push(norm.less_one(less_one && part == "weight"));
            }
        }
        // [heads, 3, head_dim, …] to [3, heads, head_dim], which comes last in a Conv1D.
        let per_head = [
            Relayout::Split {
                axis: 0,
                inner: head_dim,
            },
            Relayout::Split { axis: 0, inner: 3 },
        ];
        let moved = |axes: &[usize]| {
            let mut relayout = per_head.to_vec();
            relayout.push(Relayout::Permute(axes.to_vec()));
            relayout
        };
        let fused = source("self_attention.linear_qkv.weight");
        tensors.push(
            TensorRecipe::plain(
                target("attn.c_attn.weight"),
                fused,
                Axis(0),
                &[3 * hidden, hidden],
            )
            .by(moved(&[3, 1, 0, 2]), &[hidden, 3 * hidden]),
        );
        let fused = source("self_attention.linear_qkv.bias");
        tensors.push(
            TensorRecipe::plain(target("attn.c_attn.bias"), fused, Axis(0), &[3 * hidden])
                .by(moved(&[1, 0, 2]), &[3 * hidden]),
        );
        let linear = |ours: &str, theirs: &str, axis, shape: [usize; 2]| {
            let weight = source(&format!("{theirs}.weight"));
            let weight = TensorRecipe::plain(
                target(&format!("{ours}.weight")),
                weight,
                Axis(axis),
                &shape,
            );
            // A row-parallel layer's bias is added after the sum over ranks: all have it.
            let partition = if axis == 0 { Axis(0) } else { Replicated };
            let bias = source(&format!("{theirs}.bias"));
            let bias = TensorRecipe::plain(
                target(&format!("{ours}.bias")),
                bias,
                partition,
                &shape[..1],
            );
            [weight.transposed(), bias]
        };
        tensors.extend(linear(
            "attn.c_proj",
            "self_attention.linear_proj",
            1,
            [hidden, hidden],
        ));
        tensors.extend(linear("mlp.c_fc", "mlp.linear_fc1", 0, [wide, hidden]));
        tensors.extend(linear("mlp.c_proj", "mlp.linear_fc2", 1, [hidden, wide]));
    }
    for part in ["weight", "bias"] {
        let source = format!("decoder.final_layernorm.{part}");
        let target = format!("transformer.ln_f.{part}");
        let norm = TensorRecipe::plain(target, source, Replicated, &[hidden]);
        tensors.push(norm.less_one(less_one && part == "weight"));
    }
    let embedding = tied.then_some("transformer.wte.weight");
    let copies = add_head(&mut tensors, embedding, [padded, hidden], vocabulary);
    let mut config = object(json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_positions": positions,
        "n_embd": hidden,
        "n_layer": layers,
        "n_head": heads,
        "n_inner": wide,
        "layer_norm_epsilon": epsilon,
        "activation_function": activation(checkpoint)?,
        "resid_pdrop": args.dropout("hidden_dropout")?,
        "embd_pdrop": args.dropout("hidden_dropout")?,
        "attn_pdrop": args.dropout("attention_dropout")?,
        "tie_word_embeddings": tied,
    }));
    if vocabulary <= END_OF_TEXT {
        // transformers' default would be no token of this model.
        config.insert("bos_token_id".into(), Value::Null);
        config.insert("eos_token_id".into(), Value::Null);
    }
    Ok(Recipe {
        config,
        tensors,
        copies,
        notes: less_one.then(|| ZERO_CENTRED.into()).into_iter().collect(),
    })
}

/// transformers' name of the activation: with its fused kernel Megatron computes GELU by the tanh
/// formula, without it by erf.
fn activation(checkpoint: &MegatronCheckpoint) -> Result<&'static str> {
    let args = checkpoint.args();
    // Megatron-LM's name of it, then TransformerConfig's; one is there, as it is required.
    let name = args.named(&["bias_gelu_fusion", "bias_activation_fusion"])?;
    if args.flag_or(name.unwrap_or("bias_gelu_fusion"), false)? {
        return Ok("gelu_new");
    }
    for other in OTHER_GELUS {
        if args.flag_or(other, false)? {
            return Err(unsupported(checkpoint, GPT2, other));
        }
    }
    Ok("gelu")
}
