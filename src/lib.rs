//! Proves that a converted model checkpoint is the same model, stage by stage.

pub mod backend;
pub mod checkpoint;
pub mod compare;
pub mod error;
pub mod golden;
pub mod model;
pub mod plan;
pub mod tensor;

pub use error::{Error, Result};
