//! BLOOM: ALiBi, a LayerNorm on the embeddings, query-key-value fused per head, a tied head.

mod alibi;
mod config;
mod convert;
mod plan;
mod stages;

pub use config::BloomConfig;

use super::{Architecture, Arguments, Recipe, Runnable};
use crate::checkpoint::megatron::{Format, MegatronCheckpoint};
use crate::error::Result;

/// The epsilon of Megatron's embedding LayerNorm, whatever the arguments say: the default of
/// `MixedFusedLayerNorm`, which `VocabParallelEmbedding` does not override. transformers uses the
/// config's.
const MEGATRON_EMBEDDING_EPSILON: f64 = 1e-5;

pub(super) struct Bloom;

impl Architecture for Bloom {
    fn name(&self) -> &'static str {
        convert::BLOOM
    }

    fn model_type(&self) -> &'static str {
        "bloom"
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn formats(&self) -> &'static [Format] {
        &[Format::DeepSpeed]
    }

    fn shown_by(&self) -> &'static str {
        "an embedding LayerNorm, word_embeddings.norm"
    }

    fn recognises(&self, checkpoint: &MegatronCheckpoint) -> bool {
        checkpoint.get("word_embeddings.norm.weight").is_some()
    }

    fn arguments(&self) -> &'static Arguments {
        &convert::ARGUMENTS
    }

    fn recipe(&self, checkpoint: &MegatronCheckpoint, vocabulary: Option<usize>) -> Result<Recipe> {
        convert::recipe(checkpoint, vocabulary)
    }

    fn runnable(&self) -> Option<Runnable> {
        Some(Runnable {
            stages: &[stages::STAGES],
            of_transformers: config::of_transformers,
            of_dump: config::of_dump,
            of_checkpoint: config::of_checkpoint,
        })
    }
}
