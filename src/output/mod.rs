//! What is written appears complete or not at all.
//!
//! A [`OutputFile`] is written beside its path, and a folder beside its name; each takes its place in one
//! rename. What a killed run leaves is known by a record of names, and nothing else is ever removed.

mod file;
mod folder;
mod record;

pub use file::OutputFile;
pub(crate) use folder::{Existing, OutputFolder};
