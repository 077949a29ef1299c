//! Weights: where a step's parameters come from, one tensor at a time.

mod safetensors;
mod weights;

pub use safetensors::TransformersFolder;
pub use weights::{Stored, Weights};
