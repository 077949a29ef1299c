//! Llama: rotary positions, RMSNorm, grouped queries, a gated MLP.

mod config;
mod convert;
mod plan;
mod stages;

pub use config::LlamaConfig;

use super::megatron_core::{FINAL_NORM_BIAS, FORMATS, POSITIONS};
use super::{Architecture, Arguments, Recipe, Runnable};
use crate::checkpoint::megatron::{Format, MegatronCheckpoint};
use crate::error::Result;

pub(super) struct Llama;

impl Architecture for Llama {
    fn name(&self) -> &'static str {
        convert::LLAMA
    }

    fn model_type(&self) -> &'static str {
        "llama"
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn formats(&self) -> &'static [Format] {
        FORMATS
    }

    fn shown_by(&self) -> &'static str {
        "no position embeddings and norms without biases"
    }

    fn recognises(&self, checkpoint: &MegatronCheckpoint) -> bool {
        checkpoint.get(POSITIONS).is_none() && checkpoint.get(FINAL_NORM_BIAS).is_none()
    }

    fn arguments(&self) -> &'static Arguments {
        &convert::ARGUMENTS
    }

    fn recipe(&self, checkpoint: &MegatronCheckpoint, vocabulary: Option<usize>) -> Result<Recipe> {
        convert::recipe(checkpoint, vocabulary)
    }

    fn runnable(&self) -> Option<Runnable> {
        Some(Runnable {
            stages: stages::STAGES,
            of_transformers: config::of_transformers,
            of_dump: config::of_dump,
            of_checkpoint: config::of_checkpoint,
        })
    }
}
