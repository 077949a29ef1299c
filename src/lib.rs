//! Proves that a converted model checkpoint is the same model, stage by stage.

pub mod backend;
pub mod case;
pub mod checkpoint;
pub mod cli;
pub mod compare;
pub mod diff;
pub mod error;
pub mod golden;
pub mod model;
pub mod output;
pub mod plan;
pub mod report;
pub mod tensor;

pub use error::{Error, Result};
