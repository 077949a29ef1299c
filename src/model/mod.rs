//! Architectures: `config -> Plan`, one file each.

mod alibi;
mod bloom;
mod config;

pub use bloom::BloomConfig;
pub(crate) use bloom::MEGATRON_EMBEDDING_EPSILON;
pub use config::{ConvertedConfig, ModelConfig, SettingDifference};
