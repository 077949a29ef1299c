//! Which steps of a plan have to run.

use super::{Plan, StageId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The part of a plan that a purpose needs; steps by index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Steps to run.
    pub run: BTreeSet<usize>,
    /// Steps whose values are had from elsewhere, and read.
    pub supply: BTreeSet<usize>,
    /// For every value that is read, the last step that reads it.
    pub last_uses: HashMap<StageId, usize>,
}

impl Plan {
    /// What has to run so that the steps in `wanted` can, when the values of those in `known` can
    /// be had without running them.
    pub fn schedule(&self, wanted: &BTreeSet<usize>, known: &BTreeSet<usize>) -> Schedule {
        let mut schedule = Schedule::default();
        let mut asked: HashSet<&StageId> = HashSet::new();
        for (index, step) in self.steps().iter().enumerate().rev() {
            let is_asked = asked.contains(&step.id);
            let supplied = is_asked && known.contains(&index);
            if supplied {
                schedule.supply.insert(index);
            }
            if wanted.contains(&index) || is_asked && !supplied {
                schedule.run.insert(index);
                asked.extend(&step.inputs);
                for input in &step.inputs {
                    // Steps come last first: the first entry is the last use.
                    schedule.last_uses.entry(input.clone()).or_insert(index);
                }
            }
        }
        schedule
    }
}
