//! From a folder of raw dumps to a golden.

mod described;
#[expect(clippy::module_inception, reason = "the verb of the module")]
mod import;
mod listing;
mod megatron_core;
mod megatron_deepspeed;
mod ranks;
mod raw;
mod routing;
mod transformers;

pub use import::{Imported, import};
