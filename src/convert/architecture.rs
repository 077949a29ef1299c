//! Which architecture a checkpoint is of.

use super::recipe::Recipe;
use super::{bloom, gpt2, llama};
use crate::checkpoint::megatron::{Format, MegatronCheckpoint, Partition};
use crate::error::{BadInput, Error, Result};
use std::fmt;

/// An architecture of transformers that parity converts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    /// BLOOM, from Megatron-DeepSpeed.
    Bloom,
    /// GPT-2, from megatron-core.
    Gpt2,
    /// Llama, from megatron-core.
    Llama,
}

impl Architecture {
    /// The architecture that a checkpoint's tensors and arguments show.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn of(checkpoint: &MegatronCheckpoint) -> Result<Self> {
        match checkpoint.format() {
            Format::DeepSpeed => match checkpoint.get("word_embeddings.norm.weight") {
                Some(_) => Ok(Self::Bloom),
                None => {
                    let expected = "the embedding LayerNorm of a BLOOM, word_embeddings.norm";
                    Err(BadInput::new(checkpoint.path(), expected, "none")
                        .remedy("other models of Megatron-DeepSpeed are not supported")
                        .into())
                }
            },
            Format::Classic | Format::TorchDist => {
                let has = |name: &str| checkpoint.get(name).is_some();
                // Llama's norms have no bias and its positions no embedding.
                match (
                    has("embedding.position_embeddings.weight"),
                    has("decoder.final_layernorm.bias"),
                ) {
                    (true, true) => Ok(Self::Gpt2),
                    (false, false) => Ok(Self::Llama),
                    (positions, bias) => {
                        let expected = "a GPT-2 (position embeddings, LayerNorm) or a Llama \
                                        (neither)";
                        let found = match (positions, bias) {
                            (true, _) => "position embeddings and norms without biases",
                            _ => "norms with biases and no position embeddings",
                        };
                        Err(BadInput::new(checkpoint.path(), expected, found)
                            .remedy("name it with --architecture")
                            .into())
                    }
                }
            }
        }
    }

    /// How the model is made. `vocabulary` is the number of tokens, without padding; all rows of
    /// the embedding are kept if `None`.
    ///
    /// # Errors
    /// If an argument is missing, contradicts the tensors, or asks for what the architecture does
    /// not have.
    pub(super) fn recipe(
        self,
        checkpoint: &MegatronCheckpoint,
        vocabulary: Option<usize>,
    ) -> Result<Recipe> {
        match self {
            Self::Bloom => bloom::recipe(checkpoint, vocabulary),
            Self::Gpt2 => gpt2::recipe(checkpoint, vocabulary),
            Self::Llama => llama::recipe(checkpoint, vocabulary),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bloom => "BLOOM",
            Self::Gpt2 => "GPT-2",
            Self::Llama => "Llama",
        })
    }
}

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

/// Says that a checkpoint has what an architecture has not.
pub(super) fn unsupported(
    checkpoint: &MegatronCheckpoint,
    architecture: Architecture,
    argument: &str,
) -> Error {
    let found = checkpoint.args().text(argument).unwrap_or_default();
    let expected = format!("what transformers' {architecture} can compute");
    BadInput::new(checkpoint.args().origin(), expected, found)
        .at(argument)
        .into()
}
