//! GPT-2: learned positions, LayerNorm, biases everywhere, `Conv1D` weights.

mod config;
mod convert;
mod plan;
mod stages;

pub use config::Gpt2Config;

use super::megatron_core::{FINAL_NORM_BIAS, FORMATS, POSITIONS};
use super::{Architecture, Arguments, Recipe, Runnable};
use crate::checkpoint::megatron::{Format, MegatronCheckpoint};
use crate::error::Result;

pub(super) struct Gpt2;

impl Architecture for Gpt2 {
    fn name(&self) -> &'static str {
        convert::GPT2
    }

    fn model_type(&self) -> &'static str {
        "gpt2"
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn formats(&self) -> &'static [Format] {
        FORMATS
    }

    fn shown_by(&self) -> &'static str {
        "position embeddings and norms with biases"
    }

    fn recognises(&self, checkpoint: &MegatronCheckpoint) -> bool {
        checkpoint.get(POSITIONS).is_some() && checkpoint.get(FINAL_NORM_BIAS).is_some()
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
