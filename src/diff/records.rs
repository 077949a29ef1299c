//! What was recorded, kept for a moment: a stage is read as one side of a comparison, as the input of
//! a later one, and by the witness.

use crate::error::Result;
use crate::golden::{Golden, Reference};
use crate::plan::StageId;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Values that are kept: those that one part of a block reads.
const KEPT: usize = 6;

/// The recorded values of a golden.
pub(super) struct Records<'a> {
    pub(super) golden: &'a Golden,
    kept: RefCell<VecDeque<(StageId, Reference)>>,
}

impl<'a> Records<'a> {
    pub(super) fn of(golden: &'a Golden) -> Self {
        Self {
            golden,
            kept: RefCell::default(),
        }
    }

    /// What was recorded of a stage.
    pub(super) fn get(&self, stage: &StageId) -> Result<Option<Reference>> {
        let mut kept = self.kept.borrow_mut();
        if let Some((_, value)) = kept.iter().find(|(known, _)| known == stage) {
            return Ok(Some(value.clone()));
        }
        let value = self.golden.reference(stage)?;
        if let Some(value) = &value {
            kept.truncate(KEPT - 1);
            kept.push_front((stage.clone(), value.clone()));
        }
        Ok(value)
    }
}
