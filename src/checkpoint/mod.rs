//! Weights: where a step's parameters come from, one tensor at a time.

mod adapted;
pub mod megatron;
mod overlay;
mod safetensors;
pub mod torch;
mod weights;

pub use adapted::Adapted;
pub use overlay::Overlay;
pub use safetensors::{SafetensorsFiles, TransformersFolder};
pub use weights::{Stored, Weights};
