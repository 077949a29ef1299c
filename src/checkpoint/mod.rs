//! Weights: where a step's parameters come from, one tensor at a time.

mod adapted;
mod bin;
mod block_scaled;
mod folder;
pub mod megatron;
mod overlay;
mod safetensors;
pub mod torch;
mod weights;
mod wrapped;

pub use adapted::Adapted;
pub use folder::TransformersFolder;
pub use overlay::Overlay;
pub use safetensors::SafetensorsFiles;
pub use weights::{Stored, Weights};

pub(crate) use safetensors::headers as safetensors_headers;
pub(crate) use wrapped::bare;
