//! The architectures, a folder each: how Megatron's checkpoints of it convert, what its config says,
//! its plan in either framework's arithmetic, and the table of its stages.
//!
//! An architecture is added by a folder with `Architecture` on a struct of its name, `Model` on
//! its config, and its name in the list below. Nothing outside knows a stage or a config's key by its
//! name: what a stage is for is its [`Role`], and everything else is asked here.

mod activation;
mod arguments;
mod bloom;
mod checks;
mod config;
mod decoder;
mod deepseek_v3;
mod framework;
mod gpt2;
mod heads;
mod llama;
mod megatron;
mod megatron_core;
mod mixtral;
mod part;
#[cfg(test)]
mod presets;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod recipe;
mod rope;
mod settings;
mod stage;
mod steps;

pub use activation::ActivationName;
pub use bloom::BloomConfig;
pub use config::{ConvertedConfig, SettingDifference};
pub use decoder::{DecoderConfig, ExpertGroups, ExpertNames, Experts, LatentAttention};
pub use framework::Framework;
pub use gpt2::Gpt2Config;
pub use recipe::{Recipe, Relayout, TensorRecipe};
pub use stage::Role;

pub(crate) use heads::Heads;
pub(crate) use part::Part;
pub(crate) use settings::Settings;
pub(crate) use stage::{ChoiceForm, Hook, Hooked, Rows};

use crate::checkpoint::megatron::{Format, MegatronCheckpoint};
use crate::error::{BadInput, Result};
use crate::plan::{Arithmetic, MegatronArithmetic, Plan, TransformersArithmetic};
use crate::tensor::DType;
use arguments::Arguments;
use bloom::Bloom;
use checks::Checks;
use clap::ValueEnum;
use deepseek_v3::DeepseekV3;
use gpt2::Gpt2;
use llama::Llama;
use mixtral::Mixtral;
use qwen2::Qwen2;
use qwen3::Qwen3;
use qwen3_moe::Qwen3Moe;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What an architecture says of itself. Nothing has a default: what is forgotten does not compile.
pub(crate) trait Architecture: Sync {
    /// Its name, as people write it.
    fn name(&self) -> &'static str;

    /// Its name in `config.json`, as `model_type`.
    fn model_type(&self) -> &'static str;

    /// What transformers puts before the names of a model under a head.
    fn prefix(&self) -> &'static str;

    /// The formats of the Megatron that trains it.
    fn formats(&self) -> &'static [Format];

    /// What shows that a checkpoint in these formats is of it and of no other, in words.
    fn shown_by(&self) -> &'static str;

    /// Whether a checkpoint in these formats shows that.
    fn recognises(&self, checkpoint: &MegatronCheckpoint) -> bool;

    /// Which training arguments its recipe knows.
    fn arguments(&self) -> &'static Arguments;

    /// How transformers' model is made of a Megatron checkpoint. `vocabulary` is the number of tokens,
    /// without padding; all rows of the embedding are kept if `None`.
    ///
    /// # Errors
    /// If an argument is missing, contradicts the tensors, or asks for what the architecture does
    /// not have.
    fn recipe(&self, checkpoint: &MegatronCheckpoint, vocabulary: Option<usize>) -> Result<Recipe>;

    /// What it takes to run its models; `None` if parity only converts to it.
    fn runnable(&self) -> Option<Runnable>;
}

/// What it takes to run an architecture's models, apart from a config's [`Model`].
pub(crate) struct Runnable {
    /// Every stage, in execution order.
    pub(crate) stages: stage::Table,
    /// Reads the settings of a `config.json`.
    pub(crate) of_transformers: fn(&Settings<'_>) -> Result<Read<TransformersArithmetic>>,
    /// Reads the settings that a Megatron's dump comes with; `None` if they are of another
    /// architecture.
    pub(crate) of_dump: fn(Framework, &Settings<'_>) -> Result<Option<Read<MegatronArithmetic>>>,
    /// The arithmetic in which a checkpoint was trained.
    pub(crate) of_checkpoint: fn(&MegatronCheckpoint) -> Result<MegatronArithmetic>,
}

/// A model, and the arithmetic in which a framework computes it.
pub(crate) type Read<A> = (ModelConfig, A);

/// What is asked of a config. Nothing has a default.
pub(crate) trait Model {
    /// The plan of this model stored in `dtype`, rounding where `arithmetic`'s framework does.
    ///
    /// # Errors
    /// None for a config that has been checked.
    fn plan(&self, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan>;

    /// Checks that sizes are usable and fit together.
    ///
    /// # Errors
    /// [`BadInput`] naming the first value at fault.
    fn check(&self, checks: &Checks<'_>) -> Result<()>;

    /// Number of blocks.
    fn layers(&self) -> usize;

    /// Number of tokens the model knows.
    fn vocab_size(&self) -> usize;

    /// Takes another number of tokens: how many rows are padding is a run's own.
    fn set_vocab_size(&mut self, rows: usize);

    /// How its attention is divided into heads.
    fn heads(&self) -> Heads;

    /// How many experts a block has, and how many of them are chosen for a token; 0 without any.
    fn experts(&self) -> [usize; 2];

    /// Whether transformers keeps a tensor in the type that it is stored in, whatever type the model is loaded in.
    fn keeps_type(&self, tensor: &str) -> bool;

    /// Whether transformers stores this matrix as `[in, out]`, where plans have `[out, in]`.
    fn is_transposed(&self, tensor: &str) -> bool;

    /// All that decides which stages there are and what shapes they have, but for the vocabulary, which
    /// every side pads as it likes.
    fn structure(&self) -> Vec<usize>;

    /// Whether a checkpoint may hold this tensor though no step needs it.
    fn is_redundant(&self, tensor: &str) -> bool;

    /// The embedding that is the head's weight, too; `None` if the head has one of its own.
    fn tied_embedding(&self) -> Option<&'static str>;

    /// Gives the head a weight of its own.
    fn untie(&mut self);
}

/// The closed list of architectures. One with a config can be run; one without is only converted to.
macro_rules! architectures {
    ($($(#[$doc:meta])* $name:ident $(($config:ident))?),* $(,)?) => {
        /// An architecture of transformers, by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
        #[non_exhaustive]
        pub enum ArchitectureName {
            $($(#[$doc])* $name,)*
        }

        impl ArchitectureName {
            pub(crate) fn architecture(self) -> &'static dyn Architecture {
                match self {
                    $(Self::$name => &$name,)*
                }
            }
        }

        /// A model: its architecture and its sizes.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "architecture", rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum ModelConfig {
            $($(
                #[doc = concat!("See [`", stringify!($config), "`].")]
                $name($config),
            )?)*
        }

        impl ModelConfig {
            /// Its architecture.
            pub fn architecture(&self) -> ArchitectureName {
                match self {
                    $($(Self::$name($config { .. }) => ArchitectureName::$name,)?)*
                }
            }

            fn model(&self) -> &dyn Model {
                match self {
                    $($(Self::$name(config @ $config { .. }) => config,)?)*
                }
            }

            fn model_mut(&mut self) -> &mut dyn Model {
                match self {
                    $($(Self::$name(config @ $config { .. }) => config,)?)*
                }
            }
        }
    };
}

architectures! {
    /// BLOOM, from Megatron-DeepSpeed.
    Bloom(BloomConfig),
    /// GPT-2, from megatron-core.
    Gpt2(Gpt2Config),
    /// Llama, from megatron-core.
    Llama(DecoderConfig),
    /// Qwen2 and Qwen2.5, from megatron-core.
    Qwen2(DecoderConfig),
    /// Qwen3, from megatron-core.
    Qwen3(DecoderConfig),
    /// Mixtral, from megatron-core.
    Mixtral(DecoderConfig),
    /// Qwen3-MoE, from megatron-core.
    Qwen3Moe(DecoderConfig),
    /// DeepSeek-V3, from megatron-core.
    DeepseekV3(DecoderConfig),
}

impl ArchitectureName {
    /// The architecture that a checkpoint's tensors show.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn of(checkpoint: &MegatronCheckpoint) -> Result<Self> {
        let format = checkpoint.format();
        let trained = Self::all().filter(|name| name.architecture().formats().contains(&format));
        let candidates: Vec<Self> = trained.collect();
        let mut shown = candidates.iter().copied();
        let shown = shown.find(|name| name.architecture().recognises(checkpoint));
        shown.ok_or_else(|| {
            let known = candidates.iter().map(|name| {
                let architecture = name.architecture();
                format!("a {} ({})", architecture.name(), architecture.shown_by())
            });
            BadInput::new(checkpoint.path(), alternatives(known), "none")
                .remedy("name it with --architecture if it is one")
                .into()
        })
    }

    /// All of them.
    fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }
}

impl fmt::Display for ArchitectureName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.architecture().name())
    }
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn alternatives(of: impl Iterator<Item = String>) -> String {
    let mut of: Vec<String> = of.collect();
    match (of.pop(), of.is_empty()) {
        (Some(last), false) => format!("{} or {last}", of.join(", ")),
        (last, _) => last.unwrap_or_default(),
    }
}
