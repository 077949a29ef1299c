//! Weights: where a step's parameters come from, one tensor at a time.

pub mod megatron;
mod safetensors;
pub mod torch;
mod weights;

pub use safetensors::{SafetensorsFiles, TransformersFolder};
pub use weights::{Stored, Weights};
