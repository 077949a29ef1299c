//! Architectures: `config -> Plan`, one file each.

mod alibi;
mod bloom;
mod config;

pub use bloom::BloomConfig;
pub use config::{ConvertedConfig, ModelConfig, SettingDifference};
