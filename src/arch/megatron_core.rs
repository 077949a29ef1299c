//! What all models of megatron-core have in common: names and arguments.

use super::megatron::unsupported;
use super::{ActivationName, Settings};
use crate::checkpoint::megatron::{Format, MegatronCheckpoint};
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

/// Flags that change what is computed, and that neither GPT-2 nor Llama has.
const FOREIGN_FLAGS: [&str; 7] = [
    "apply_layernorm_1p",
    "layernorm_zero_centered_gamma",
    "apply_residual_connection_post_layernorm",
    "fp32_residual_connection",
    "qk_l2_norm",
    "attention_output_gate",
    "multi_latent_attention",
];
/// Arguments that do, whatever their value; TransformerConfig's name of experts, then Megatron-LM's.
const FOREIGN: [&str; 5] = [
    "window_size",
    "softmax_scale",
    "no_rope_freq",
    "num_moe_experts",
    "num_experts",
];
/// The one that names a softmax, and the plain one.
const SOFTMAX: (&str, &str) = ("softmax_type", "vanilla");

/// Refuses what an architecture cannot compute: these flags, and what no architecture here can.
pub(super) fn refuse_flags(
    checkpoint: &MegatronCheckpoint,
    architecture: &str,
    flags: &[&str],
) -> Result<()> {
    let args = checkpoint.args();
    for flag in flags.iter().chain(&FOREIGN_FLAGS) {
        if args.flag_or(flag, false)? {
            return Err(unsupported(checkpoint, architecture, flag));
        }
    }
    for argument in FOREIGN {
        if args.get(argument).is_some() {
            return Err(unsupported(checkpoint, architecture, argument));
        }
    }
    let (softmax, plain) = SOFTMAX;
    require(checkpoint, architecture, softmax, plain)
}

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

/// Refuses any other choice than the one an architecture has. Enumerations are kept as they would
/// be shown, their value last.
pub(super) fn require(
    checkpoint: &MegatronCheckpoint,
    architecture: &str,
    argument: &str,
    only: &str,
) -> Result<()> {
    let other = checkpoint
        .args()
        .text(argument)
        .filter(|value| !value.ends_with(only));
    match other {
        None => Ok(()),
        Some(_) => Err(unsupported(checkpoint, architecture, argument)),
    }
}

/// The epsilon of all norms, under its older or its newer name.
pub(super) fn epsilon(checkpoint: &MegatronCheckpoint) -> Result<f64> {
    let args = checkpoint.args();
    match args.get("norm_epsilon") {
        Some(_) => args.number("norm_epsilon"),
        None => args.number("layernorm_epsilon"),
    }
}

/// Whether the head is the embedding.
pub(super) fn is_tied(checkpoint: &MegatronCheckpoint) -> Result<bool> {
    let args = checkpoint.args();
    // Megatron-LM's argument, then GPTModel's.
    Ok(match args.get("untie_embeddings_and_output_weights") {
        Some(_) => !args.flag_or("untie_embeddings_and_output_weights", false)?,
        None => match args.get("share_embeddings_and_output_weights") {
            Some(_) => args.flag_or("share_embeddings_and_output_weights", false)?,
            None => checkpoint.get(HEAD).is_none(),
        },
    })
}

/// The arithmetic in which a checkpoint was trained. Which kernels ran on a GPU it does not tell.
pub(super) fn arithmetic_of(
    checkpoint: &MegatronCheckpoint,
    architecture: &str,
) -> Result<MegatronArithmetic> {
    refuse_flags(checkpoint, architecture, &["apply_query_key_layer_scaling"])?;
    Ok(MegatronArithmetic {
        tensor_parallel: checkpoint.ranks(),
        query_key_layer_scaling: false,
        fused_kernels: false,
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
        ..MegatronArithmetic::default()
    })
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
    let tanh = fused || settings.flag_or(&["openai_gelu"], false)?;
    Ok(match found {
        ActivationName::Gelu if tanh => ActivationName::GeluNew,
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
