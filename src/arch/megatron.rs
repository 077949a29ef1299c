//! What conversions from any of the Megatrons have in common.

use crate::checkpoint::megatron::{MegatronCheckpoint, Partition};
use crate::error::{BadInput, Error, Result};

/// Rows of an embedding with its padding, and how many are to be kept.
pub(super) fn vocabulary(
    checkpoint: &MegatronCheckpoint,
    embedding: &str,
    asked: Option<usize>,
) -> Result<(usize, usize)> {
    let joined = checkpoint.joined(embedding, Partition::Axis(0))?;
    let padded = joined.tiled.shape().first().copied().unwrap_or(0);
    match asked {
        Some(asked) if asked > padded || asked == 0 => {
            let expected = format!("an embedding of at least {asked} rows, as --vocab-size asks");
            let fault = BadInput::new(checkpoint.path(), expected, padded.to_string());
            Err(fault.at(embedding).into())
        }
        Some(asked) => Ok((padded, asked)),
        None => Ok((padded, padded)),
    }
}

/// The error of a checkpoint that has something which the named architecture lacks.
pub(super) fn unsupported(
    checkpoint: &MegatronCheckpoint,
    architecture: &str,
    argument: &str,
) -> Error {
    let found = checkpoint.args().text(argument).unwrap_or_default();
    let expected = format!("what transformers' {architecture} can compute");
    BadInput::new(checkpoint.args().origin(), expected, found)
        .at(argument)
        .remedy(format!(
            "where the run had another, convert with --arg {argument}=VALUE"
        ))
        .into()
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
        .filter(|value| last_word(value) != only);
    match other {
        None => Ok(()),
        Some(_) => Err(unsupported(checkpoint, architecture, argument)),
    }
}

/// `PositionEmbeddingType.alibi` → `alibi`.
pub(super) fn last_word(shown: &str) -> &str {
    let mut words = shown.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.rfind(|word| !word.is_empty()).unwrap_or(shown)
}
