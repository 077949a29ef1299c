//! Proves that a converted model checkpoint is the same model, stage by stage.

pub mod compare;
pub mod error;
pub mod tensor;

pub use error::{Error, Result};
