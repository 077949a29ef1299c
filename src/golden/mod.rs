//! Reference activations: a folder of `.npy` files and the `golden.json` that says what they are.

mod digest;
mod format1;
#[expect(clippy::module_inception, reason = "the noun of the module")]
mod golden;
mod import;
mod manifest;
mod sequences;

pub use crate::digest::{Algorithm, Digest};
pub use crate::tensor::{Join, Layout};
pub use golden::{Golden, Reference};
pub use import::{Imported, import};
pub(crate) use manifest::major_minor;
pub use manifest::{
    Content, FileRecord, Manifest, ProjectionFile, Provenance, ReducedProducts, StageRecord,
    StatisticsFiles,
};
pub use sequences::Sequences;
