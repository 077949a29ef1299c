//! The frameworks whose hooks write dumps.

use clap::ValueEnum;
use std::fmt;

/// Whose hooks wrote a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Framework {
    /// bigscience-workshop/Megatron-DeepSpeed, pipelined model.
    MegatronDeepspeed,
    /// NVIDIA's megatron-core, `GPTModel`.
    MegatronCore,
    /// transformers, hooks on every module.
    Transformers,
}

impl fmt::Display for Framework {
    /// As dumps and goldens name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}
