//! What a tolerance is chosen by, and the tolerance that was chosen.

use super::Mode;
use crate::arch::Role;
use crate::backend::Device;
use crate::compare::Tolerance;
use crate::plan::StageId;
use crate::tensor::DType;

/// What a tolerance is chosen by: the comparison that it is to judge.
#[derive(Clone, Copy, Debug)]
pub struct ToleranceContext<'a> {
    /// The stage.
    pub stage: &'a StageId,
    /// What it is for, if the model's architecture has it.
    pub role: Option<Role>,
    /// Where the candidate was computed; `None` if it was recorded elsewhere.
    pub device: Option<Device>,
    /// Whether the reference was made by the device's own kernels, so that it can be met exactly.
    pub same_kernels: bool,
    /// Where its inputs came from.
    pub mode: Mode,
    /// The type the stage's values have.
    pub dtype: DType,
    /// Whether a budget can be computed: the stage ran on the reference's own values and is compared
    /// with them.
    pub budgeted: bool,
    /// The model's number of blocks.
    pub layers: usize,
}

/// The tolerance that applies, and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedTolerance {
    /// What must hold.
    pub tolerance: Tolerance,
    /// The rule's origin, or which default it is.
    pub origin: String,
}
