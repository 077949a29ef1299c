//! From a Megatron checkpoint to the converted model: as weights to run, or as a folder on disk.
//!
//! An architecture gives a [`Recipe`](crate::arch::Recipe): which tensor is made of which, how ranks
//! divide it, and which moves of axes lead from one to the other. What is here works on any recipe.

#[expect(clippy::module_inception, reason = "the verb of the module")]
mod convert;
mod converted;
mod sharding;
mod verify;
mod writer;

pub use convert::{Event, Options, Report, convert};
pub use converted::{Converted, ConvertedTensor};
pub use sharding::ByteSize;
