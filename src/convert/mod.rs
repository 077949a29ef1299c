//! From a Megatron checkpoint to the converted model: as weights to run, or as a folder on disk.
//!
//! An architecture is one file (`bloom.rs`, `gpt2.rs`, `llama.rs`): Megatron's arguments and names
//! in, a [`Recipe`] out. A recipe is data: which tensor is made of which, how ranks divide it, and
//! which moves of axes lead from one to the other. Everything else works on recipes.

mod architecture;
mod bloom;
#[expect(clippy::module_inception, reason = "the verb of the module")]
mod convert;
mod converted;
mod gpt2;
mod llama;
mod megatron_core;
mod output;
mod recipe;
mod sharding;
mod verify;
mod writer;

pub use architecture::Architecture;
pub use convert::{Event, Options, Report, convert};
pub use converted::{Converted, ConvertedTensor};
pub use recipe::{Recipe, Relayout, TensorRecipe};
pub use sharding::ByteSize;
