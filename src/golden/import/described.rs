//! What the importer of a framework tells the import.

use super::ranks::Ranks;
use crate::arch::{Framework, ModelConfig};
use crate::plan::Arithmetic;
use crate::tensor::DType;

/// What a framework's importer says of a dump. Which stages there are, how they lie and how ranks join
/// is in the table of the model's architecture.
pub(super) struct Described {
    pub(super) framework: Framework,
    pub(super) model: ModelConfig,
    pub(super) dtype: DType,
    pub(super) arithmetic: Arithmetic,
    pub(super) ranks: Ranks,
    /// Whether a position that does not follow the one before begins another sequence, where no mask was given;
    /// `None` if nothing says so.
    pub(super) packs: Option<bool>,
    /// A hook's name as that table has it, made of a dumped one; `None` if there cannot be one.
    pub(super) hook: Renaming,
}

/// From one name to another.
pub(super) type Renaming = Box<dyn Fn(&str) -> Option<String>>;
