//! Which steps of a plan have to run.

use super::{StageId, Step};
use std::collections::{HashMap, HashSet};

/// The part of a list of steps that a purpose needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Steps to run.
    pub run: HashSet<StageId>,
    /// Steps whose values are given and read.
    pub supply: HashSet<StageId>,
    /// For every value that is read, the last step that reads it.
    last_uses: HashMap<StageId, StageId>,
}

impl Schedule {
    /// What has to run so that the steps in `wanted` can, when the values of those in `known` can
    /// be had without running them.
    pub fn new(steps: &[Step], wanted: &HashSet<&StageId>, known: &HashSet<&StageId>) -> Self {
        let mut schedule = Self::default();
        for step in steps.iter().rev() {
            let is_read = schedule.is_read(&step.id);
            let is_supplied = is_read && known.contains(&step.id);
            if is_supplied {
                schedule.supply.insert(step.id.clone());
            }
            if wanted.contains(&step.id) || is_read && !is_supplied {
                schedule.run.insert(step.id.clone());
                for input in &step.inputs {
                    // Steps come last first: the first entry is the last use.
                    let last = schedule.last_uses.entry(input.clone());
                    last.or_insert_with(|| step.id.clone());
                }
            }
        }
        schedule
    }

    /// Whether a step that runs reads a value.
    pub fn is_read(&self, value: &StageId) -> bool {
        self.last_uses.contains_key(value)
    }

    /// Whether no step after this one reads a value.
    pub fn is_last_use(&self, value: &StageId, step: &StageId) -> bool {
        self.last_uses.get(value) == Some(step)
    }
}
