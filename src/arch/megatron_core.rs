//! What all models of megatron-core have in common: names and arguments.

use super::megatron::unsupported;
use crate::checkpoint::megatron::{Format, MegatronCheckpoint};
use crate::error::Result;

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

/// Refuses what an architecture cannot compute: these flags, and experts.
pub(super) fn refuse_flags(
    checkpoint: &MegatronCheckpoint,
    architecture: &str,
    flags: &[&str],
) -> Result<()> {
    for flag in flags {
        if checkpoint.args().flag_or(flag, false)? {
            return Err(unsupported(checkpoint, architecture, flag));
        }
    }
    match checkpoint.args().get("num_experts") {
        None => Ok(()),
        Some(_) => Err(unsupported(checkpoint, architecture, "num_experts")),
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
