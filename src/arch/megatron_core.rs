//! What all models of megatron-core have in common: names and arguments.

use super::megatron::unsupported;
use super::recipe::TensorRecipe;
use super::{ActivationName, Settings};
use crate::checkpoint::megatron::{Format, MegatronCheckpoint, Partition};
use crate::error::Result;
use crate::plan::MegatronArithmetic;

/// How its checkpoints lie on disk.
pub(super) const FORMATS: &[Format] = &[Format::Classic, Format::TorchDist];
/// The embedding of tokens.
pub(super) const EMBEDDING: &str = "embedding.word_embeddings.weight";
/// The head, where it is not the embedding.
pub(super) const HEAD: &str = "output_layer.weight";
/// The embedding of positions, where they are learned.
pub(super) const POSITIONS: &str = "embedding.position_embeddings.weight";
/// The bias of the last norm, which an RMSNorm lacks.
pub(super) const FINAL_NORM_BIAS: &str = "decoder.final_layernorm.bias";

/// Arguments that the recipes of all its models read.
pub(super) const HANDLED: &[&str] = &[
    "hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "group_query_attention",
    "num_layers",
    "ffn_hidden_size",
    "kv_channels",
    "layernorm_epsilon",
    "norm_epsilon",
    "apply_layernorm_1p",
    "layernorm_zero_centered_gamma",
    "normalization",
    "position_embedding_type",
    "activation_func",
    "gated_linear_unit",
    "swiglu",
    "add_bias_linear",
    "untie_embeddings_and_output_weights",
    "share_embeddings_and_output_weights",
    "attention_dropout",
    // In the order of roundings: the arithmetic of a run, not the model.
    "apply_query_key_layer_scaling",
];

/// Settings of dumps that change what is computed, and that neither GPT-2 nor Llama has.
const FOREIGN_FLAGS: [&str; 6] = [
    "apply_layernorm_1p",
    "layernorm_zero_centered_gamma",
    "apply_residual_connection_post_layernorm",
    "fp32_residual_connection",
    "qk_l2_norm",
    "attention_output_gate",
];
/// Those that do, whatever their value.
const FOREIGN: [&str; 3] = ["window_size", "softmax_scale", "no_rope_freq"];
/// How many experts there are: TransformerConfig's name of it, then Megatron-LM's.
pub(super) const EXPERTS: [&str; 2] = ["num_moe_experts", "num_experts"];
/// Flags under which GELU is computed by tanh, whatever its function: by models from before megatron-core, by
/// Transformer Engine.
pub(super) const OTHER_GELUS: [&str; 3] = [
    "openai_gelu",
    "use_te_activation_func",
    "use_transformer_engine_op_fuser",
];
/// The one that names a softmax, and the plain one.
const SOFTMAX: (&str, &str) = ("softmax_type", "vanilla");

/// Refuses another activation function than the one an architecture has. Megatron-LM's arguments do
/// not name it, TransformerConfig's do.
pub(super) fn require_activation(
    checkpoint: &MegatronCheckpoint,
    architecture: &str,
    only: ActivationName,
) -> Result<()> {
    let key = "activation_func";
    match checkpoint.args().text(key) {
        Some(name) if named(&name) != Some(only) => Err(unsupported(checkpoint, architecture, key)),
        _ => Ok(()),
    }
}

/// The epsilon of all norms, under its older or its newer name.
pub(super) fn epsilon(checkpoint: &MegatronCheckpoint) -> Result<f64> {
    let args = checkpoint.args();
    let name = args.named(&["norm_epsilon", "layernorm_epsilon"])?;
    args.number(name.unwrap_or("layernorm_epsilon"))
}

/// The argument that says otherwise than that a gate is multiplied to what the MLP's activation gives, or that
/// none is. Megatron-LM's name of it, then TransformerConfig's.
pub(super) fn gated_otherwise(
    checkpoint: &MegatronCheckpoint,
    gated: bool,
) -> Result<Option<&'static str>> {
    for name in ["swiglu", "gated_linear_unit"] {
        if checkpoint.args().flag_or(name, gated)? != gated {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether checkpoints hold the weights of norms less one: Megatron-LM's name of it, then TransformerConfig's.
pub(super) fn zero_centred(checkpoint: &MegatronCheckpoint) -> Result<bool> {
    let args = checkpoint.args();
    match args.named(&["apply_layernorm_1p", "layernorm_zero_centered_gamma"])? {
        Some(name) => args.flag_or(name, false),
        None => Ok(false),
    }
}

/// What to say of that.
pub(super) const ZERO_CENTRED: &str = "weights of norms are stored less one: 1 was added, where Megatron adds it \
    to the fp32 value, and rounded once to the type that they are written in";

/// Entries of a head.
pub(super) fn head_dim(
    checkpoint: &MegatronCheckpoint,
    hidden: usize,
    heads: usize,
) -> Result<usize> {
    let args = checkpoint.args();
    match args.optional_size("kv_channels")? {
        Some(given) => Ok(given),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => {
            let expected = format!("a divisor of hidden_size {hidden}, or kv_channels");
            Err(args.fault("num_attention_heads", &expected))
        }
    }
}

/// Groups of heads that share a key.
pub(super) fn groups(checkpoint: &MegatronCheckpoint, heads: usize) -> Result<usize> {
    let args = checkpoint.args();
    // Without the flag Megatron-LM's num_query_groups is its default, 1, and means nothing.
    let grouped = args.flag_or("group_query_attention", true)?;
    let groups = args.optional_size("num_query_groups")?;
    let groups = groups.filter(|_| grouped).unwrap_or(heads);
    if !heads.is_multiple_of(groups) {
        return Err(args.fault("num_query_groups", &format!("a divisor of {heads} heads")));
    }
    Ok(groups)
}

/// Whether the head is the embedding.
pub(super) fn is_tied(checkpoint: &MegatronCheckpoint) -> Result<bool> {
    let args = checkpoint.args();
    // Megatron-LM's argument, then GPTModel's.
    let [untie, share] = [
        "untie_embeddings_and_output_weights",
        "share_embeddings_and_output_weights",
    ];
    match (args.get(untie), args.get(share)) {
        (Some(untied), Some(shared)) if untied == shared => {
            let expected = format!("the opposite of {untie}={untied}");
            Err(args.contradiction(untie, share, expected))
        }
        (Some(_), _) => Ok(!args.flag_or(untie, false)?),
        (None, Some(_)) => args.flag_or(share, false),
        (None, None) => Ok(checkpoint.get(HEAD).is_none()),
    }
}

/// Adds the head to tensors that go by `embedding` for a tied one, a copy of which the last pipeline stage
/// keeps; gives the copies.
pub(super) fn add_head(
    tensors: &mut Vec<TensorRecipe>,
    embedding: Option<&str>,
    shape: [usize; 2],
    vocabulary: usize,
) -> Vec<TensorRecipe> {
    let target = embedding.unwrap_or("lm_head.weight");
    let head = TensorRecipe::plain(target, HEAD, Partition::Axis(0), &shape).first_rows(vocabulary);
    if embedding.is_some() {
        return vec![head];
    }
    tensors.push(head);
    Vec::new()
}

/// The arithmetic in which a checkpoint was trained. Which kernels ran on a GPU it does not tell.
pub(super) fn arithmetic_of(
    checkpoint: &MegatronCheckpoint,
    architecture: &str,
) -> Result<MegatronArithmetic> {
    let scaling = "apply_query_key_layer_scaling";
    if checkpoint.args().flag_or(scaling, false)? {
        return Err(unsupported(checkpoint, architecture, scaling));
    }
    Ok(MegatronArithmetic {
        tensor_parallel: checkpoint.ranks(),
        query_key_layer_scaling: false,
        fused_kernels: false,
        fp32_router: is_fp32_router(&Settings::of_arguments(checkpoint.args()))?,
        ..MegatronArithmetic::default()
    })
}

/// The arithmetic of a dump's run.
pub(super) fn arithmetic(settings: &Settings<'_>) -> Result<MegatronArithmetic> {
    settings.refuse_flag("apply_query_key_layer_scaling")?;
    let ranks = ["tensor_parallel", "tensor_model_parallel_size"];
    Ok(MegatronArithmetic {
        tensor_parallel: settings.size(&ranks)?,
        query_key_layer_scaling: false,
        // `--no-masked-softmax-fusion` switches Megatron's own kernels off.
        fused_kernels: settings.flag_or(&["masked_softmax_fusion"], false)?,
        fp32_router: is_fp32_router(settings)?,
        ..MegatronArithmetic::default()
    })
}

/// Whether a mixture's router computes in fp32, not in the model's type.
fn is_fp32_router(settings: &Settings<'_>) -> Result<bool> {
    let key = "moe_router_dtype";
    match settings.text(&[key])?.as_deref() {
        None => Ok(false),
        Some("fp32") => Ok(true),
        Some(other) => Err(settings.fault(key, "fp32 or nothing", format!("{other:?}"))),
    }
}

/// Refuses what an architecture cannot compute: these flags, and what no architecture here can.
pub(super) fn refuse_settings(settings: &Settings<'_>, flags: &[&str]) -> Result<()> {
    for flag in flags.iter().chain(&FOREIGN_FLAGS) {
        settings.refuse_flag(flag)?;
    }
    for key in FOREIGN {
        settings.refuse(key)?;
    }
    let (softmax, plain) = SOFTMAX;
    match settings.text(&[softmax])? {
        Some(other) if !other.ends_with(plain) => Err(settings.fault(softmax, plain, other)),
        _ => Ok(()),
    }
}

/// Refuses any other choice than the one an architecture has; nothing is megatron-core's default,
/// LayerNorm.
pub(super) fn require_setting(settings: &Settings<'_>, key: &str, only: &str) -> Result<()> {
    let found = settings.text(&[key])?;
    let found = found.as_deref().unwrap_or("LayerNorm");
    if found == only {
        return Ok(());
    }
    Err(settings.fault(key, only, format!("{found:?}")))
}

/// The activation of an MLP. Functions are texts as Python shows them, or their names alone.
pub(super) fn activation(settings: &Settings<'_>) -> Result<ActivationName> {
    let key = "activation_func";
    let name = settings.text(&[key])?;
    let name = name.as_deref().unwrap_or("gelu");
    let Some(found) = named(name) else {
        return Err(settings.fault(key, "gelu, silu or relu", format!("{name:?}")));
    };
    // With its fused kernel Megatron computes GELU by the tanh formula, without it by erf.
    let fused = settings.flag_or(&["bias_gelu_fusion", "bias_activation_fusion"], false)?;
    if !fused && found == ActivationName::Gelu {
        for other in OTHER_GELUS {
            settings.refuse_flag(other)?;
        }
    }
    Ok(match found {
        ActivationName::Gelu if fused => ActivationName::GeluNew,
        other => other,
    })
}

/// The function that a text as Python shows one, or its name alone, names.
fn named(text: &str) -> Option<ActivationName> {
    let is = |function: &str| {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| word == function)
    };
    let known = [
        ("gelu", ActivationName::Gelu),
        ("silu", ActivationName::Silu),
        ("relu", ActivationName::Relu),
    ];
    let found = known.into_iter().find(|(function, _)| is(function));
    found.map(|(_, name)| name)
}

/// Whether the head is the embedding. GPTModel's default is that it is not, Megatron-LM's that it is.
pub(super) fn is_tied_in(settings: &Settings<'_>) -> Result<bool> {
    let untied = settings.optional_flag(&["untie_embeddings_and_output_weights"])?;
    match untied {
        Some(untied) => Ok(!untied),
        None => settings.flag_or(&["share_embeddings_and_output_weights"], false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::recipe::object;
    use serde_json::{Value, json};
    use std::path::Path;

    fn of_dump(settings: Value) -> Result<ActivationName> {
        activation(&Settings::new(Path::new("config.json"), object(settings)))
    }

    #[test]
    fn gelu_is_tanhs_in_megatrons_kernel_alone() {
        let fused = json!({"bias_gelu_fusion": true, "use_te_activation_func": true});
        assert_eq!(of_dump(fused).unwrap(), ActivationName::GeluNew);
        let plain = json!({"activation_func": "gelu", "openai_gelu": false});
        assert_eq!(of_dump(plain).unwrap(), ActivationName::Gelu);
        for other in OTHER_GELUS {
            let error = of_dump(json!({"activation_func": "gelu", other: true}));
            assert!(error.unwrap_err().to_string().contains(other));
            let silu = of_dump(json!({"activation_func": "silu", other: true}));
            assert_eq!(silu.unwrap(), ActivationName::Silu);
        }
    }
}
