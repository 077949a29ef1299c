//! GPT-2 from megatron-core.
//!
//! transformers' GPT-2 has `Conv1D` layers, whose weight is `[in, out]`, and keeps query, key and
//! value one after the other where Megatron has them per head.

use crate::arch::ActivationName;
use crate::arch::megatron::{unsupported, vocabulary};
use crate::arch::megatron_core::{
    EMBEDDING, HEAD, POSITIONS, epsilon, is_tied, refuse_flags, require, require_activation,
};
use crate::arch::recipe::{Recipe, Relayout, TensorRecipe, object};
use crate::checkpoint::megatron::{MegatronCheckpoint, Partition};
use crate::error::Result;
use serde_json::{Value, json};

/// The architecture's name.
pub(super) const GPT2: &str = "GPT-2";

/// The token that transformers' GPT-2 begins and ends texts with, unless told otherwise.
const END_OF_TEXT: usize = 50_256;

pub(super) fn recipe(checkpoint: &MegatronCheckpoint, tokens: Option<usize>) -> Result<Recipe> {
    use Partition::{Axis, Replicated};
    let args = checkpoint.args();
    let refuse = |argument| unsupported(checkpoint, GPT2, argument);
    refuse_flags(
        checkpoint,
        GPT2,
        &[
            "gated_linear_unit",
            "swiglu",
            "squared_relu",
            "qk_layernorm",
        ],
    )?;
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
    let head_dim = args.optional_size("kv_channels")?.unwrap_or(hidden / heads);
    if head_dim * heads != hidden {
        return Err(refuse("kv_channels"));
    }
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
                tensors.push(TensorRecipe::plain(
                    target(&format!("{ours}.{part}")),
                    source(&format!("{theirs}.{part}")),
                    Replicated,
                    &[hidden],
                ));
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
        tensors.push(TensorRecipe::plain(
            format!("transformer.ln_f.{part}"),
            source,
            Replicated,
            &[hidden],
        ));
    }
    // The last pipeline stage keeps a copy of a tied embedding.
    let target = if tied {
        "transformer.wte.weight"
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
        "resid_pdrop": args.number_or("hidden_dropout", 0.0)?,
        "embd_pdrop": args.number_or("hidden_dropout", 0.0)?,
        "attn_pdrop": args.number_or("attention_dropout", 0.0)?,
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
        notes: Vec::new(),
    })
}

/// transformers' name of the activation: with its fused kernel Megatron computes GELU by the tanh
/// formula, without it by erf.
fn activation(checkpoint: &MegatronCheckpoint) -> Result<&'static str> {
    let args = checkpoint.args();
    let fused = match args.get("bias_gelu_fusion") {
        Some(_) => args.flag_or("bias_gelu_fusion", true)?,
        // TransformerConfig's name of it.
        None => {
            // It names the function, too, and does not fuse unless told to; Megatron-LM does.
            let fuses = args.get("activation_func").is_none();
            args.flag_or("bias_activation_fusion", fuses)?
        }
    };
    let tanh = fused || args.flag_or("openai_gelu", false)?;
    Ok(if tanh { "gelu_new" } else { "gelu" })
}
