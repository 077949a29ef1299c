//! Decoders with rotary positions, RMSNorm before attention and MLP, and a gated MLP: Llama and its relatives.
//!
//! What they have in common is here: a config that describes any of them, a plan in either framework's arithmetic,
//! the rows of their stage tables, and how megatron-core's checkpoints convert. An architecture is a [`Relative`]:
//! its names, which of the features it has, and what its `config.json` says.

mod config;
mod convert;
mod experts;
mod features;
mod latent;
mod plan;
pub(super) mod stages;

pub use config::DecoderConfig;
pub use experts::{ExpertGroups, ExpertNames, Experts};
pub use latent::LatentAttention;

pub(super) use config::{Defaults, refuse_window, shared_settings};
pub(super) use convert::{ARGUMENTS, Converting, EXPERT_ARGUMENTS, LATENT_ARGUMENTS};
pub(super) use features::Features;

use super::megatron_core::{self, FORMATS, POSITIONS};
use super::stage::Table;
use super::{Architecture, Arguments, Framework, ModelConfig, Read, Recipe, Runnable, Settings};
use crate::checkpoint::megatron::{Format, MegatronCheckpoint};
use crate::error::Result;
use crate::plan::{MegatronArithmetic, TransformersArithmetic};
use serde_json::{Map, Value};

/// An architecture of these. Nothing has a default: what is forgotten does not compile.
pub(super) trait Relative: Sync + 'static {
    /// Its name, as people write it.
    const NAME: &'static str;
    /// Its name in `config.json`, as `model_type`.
    const MODEL_TYPE: &'static str;
    /// Its class in transformers, with a head.
    const CLASS: &'static str;
    /// What tells it from its relatives.
    const FEATURES: Features;
    /// What shows that, in words.
    const SHOWN_BY: &'static str;
    /// Its stages.
    const STAGES: Table;
    /// Which training arguments its recipe knows.
    const ARGUMENTS: &'static Arguments;

    /// A model of it.
    fn model(config: DecoderConfig) -> ModelConfig;

    /// What Megatron's settings do not say of a mixture of experts. One that has none is never asked.
    fn experts(experts: Experts) -> Experts;

    /// Reads transformers' settings, with the defaults of its class.
    fn read(settings: &Settings<'_>) -> Result<DecoderConfig>;

    /// What its `config.json` says besides what all relatives' do.
    fn settings(converting: &Converting<'_>) -> Result<Map<String, Value>>;
}

impl<T: Relative> Architecture for T {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn model_type(&self) -> &'static str {
        T::MODEL_TYPE
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn formats(&self) -> &'static [Format] {
        FORMATS
    }

    fn shown_by(&self) -> &'static str {
        T::SHOWN_BY
    }

    fn recognises(&self, checkpoint: &MegatronCheckpoint) -> bool {
        let is_decoder = checkpoint.get(POSITIONS).is_none()
            && checkpoint.get(megatron_core::FINAL_NORM_BIAS).is_none();
        is_decoder && Features::of_checkpoint(checkpoint).are(T::FEATURES)
    }

    fn arguments(&self) -> &'static Arguments {
        T::ARGUMENTS
    }

    fn recipe(&self, checkpoint: &MegatronCheckpoint, vocabulary: Option<usize>) -> Result<Recipe> {
        convert::recipe::<T>(checkpoint, vocabulary)
    }

    fn runnable(&self) -> Option<Runnable> {
        Some(Runnable {
            stages: T::STAGES,
            of_transformers: of_transformers::<T>,
            of_dump: of_dump::<T>,
            of_checkpoint: of_checkpoint::<T>,
        })
    }
}

fn of_transformers<T: Relative>(settings: &Settings<'_>) -> Result<Read<TransformersArithmetic>> {
    let model = T::model(T::read(settings)?);
    Ok((model, TransformersArithmetic::default()))
}

/// Reads megatron-core's arguments: of `TransformerConfig` and `GPTModel`, or Megatron-LM's.
fn of_dump<T: Relative>(
    framework: Framework,
    settings: &Settings<'_>,
) -> Result<Option<Read<MegatronArithmetic>>> {
    let positions = settings.text(&["position_embedding_type"])?;
    if framework != Framework::MegatronCore || positions.as_deref() != Some("rope") {
        return Ok(None);
    }
    let features = Features::of_dump(settings)?;
    if !features.are(T::FEATURES) {
        return Ok(None);
    }
    let config = config::of_dump(settings, features)?;
    let experts = config.experts.map(T::experts);
    let config = DecoderConfig { experts, ..config };
    let arithmetic = megatron_core::arithmetic(settings)?;
    Ok(Some((T::model(config), arithmetic)))
}

fn of_checkpoint<T: Relative>(checkpoint: &MegatronCheckpoint) -> Result<MegatronArithmetic> {
    megatron_core::arithmetic_of(checkpoint, T::NAME)
}
