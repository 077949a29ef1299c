//! What the importer of a framework tells the import.

use crate::golden::manifest::{Join, Layout};
use crate::model::ModelConfig;
use crate::plan::{Arithmetic, Variant};
use crate::tensor::DType;

/// What a framework's importer says of a dump.
pub(super) struct Described {
    pub(super) framework: &'static str,
    pub(super) model: ModelConfig,
    pub(super) dtype: DType,
    pub(super) arithmetic: Arithmetic,
    pub(super) ranks: usize,
    pub(super) names: Box<dyn Names>,
}

/// What a dumped name means.
pub(super) trait Names {
    /// Stage, layout, how ranks join, and variant; `None` for a name that means nothing here.
    fn stage(&self, name: &str) -> Option<(String, Layout, Join, Variant)>;
}
