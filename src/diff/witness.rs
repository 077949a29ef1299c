//! The candidate's model in the reference's arithmetic.
//!
//! Where the candidate rounds elsewhere than the reference did, the reference's own error bound is
//! that of the reference's steps; and how many half-precision elements may differ at all can only
//! be said of the same steps. The witness runs them: on the reference's values, for the stages
//! where the two plans part. It runs on the CPU whatever the candidate runs on: a budget covers both.

use super::lane::{Lane, Value};
use super::reference::Recordings;
use crate::backend::Cpu;
use crate::error::Result;
use crate::golden::Reference;
use crate::op::{Confidence, ErrorBound};
use crate::plan::{Plan, StageId};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Witness<'a> {
    plan: &'a Plan,
    recordings: &'a Recordings<'a>,
    lane: Lane<'a, Cpu>,
    /// Its step for every stage that it is asked about.
    steps: BTreeMap<&'a StageId, usize>,
    /// Steps still to visit, in order.
    ahead: std::vec::IntoIter<usize>,
    confidence: Confidence,
    /// Whether its elements are counted; else it need not run where a value was recorded.
    counted: bool,
}

/// A stage in the reference's arithmetic.
pub(super) struct Testimony {
    /// What was recorded, in the variant it was recorded in.
    pub(super) recorded: Tensor,
    /// What the candidate's weights give; of half types only, where they are counted.
    pub(super) value: Option<Tensor>,
    /// How far either may be from exact.
    pub(super) error_bound: ErrorBound,
}

impl<'a> Witness<'a> {
    /// A witness of those of `stages` that it has recorded values for.
    pub(super) fn new(
        plan: &'a Plan,
        recordings: &'a Recordings<'a>,
        tokens: &Tensor,
        stages: &BTreeSet<&StageId>,
        confidence: Confidence,
        counted: bool,
    ) -> Self {
        let known = recordings.full();
        let asked = recordings
            .iter()
            .filter(|(index, stage)| known.contains(index) && stages.contains(stage));
        let steps: BTreeMap<&StageId, usize> = asked.map(|(index, stage)| (stage, index)).collect();
        let wanted = steps.values().copied().collect();
        let lane = Lane::new(plan, &Cpu, tokens.clone(), &wanted, &known);
        let ahead: Vec<usize> = lane.visited().collect();
        Self {
            plan,
            recordings,
            lane,
            steps,
            ahead: ahead.into_iter(),
            confidence,
            counted,
        }
    }

    /// What the witness says of a stage. Stages are asked about in execution order.
    pub(super) fn at(&mut self, stage: &StageId) -> Result<Option<Testimony>> {
        let Some(asked) = self.steps.get(stage).copied() else {
            return Ok(None);
        };
        for index in self.ahead.by_ref() {
            let recorded = match self.recordings.value(index)? {
                Some(Reference::Full(value)) => Some(value),
                _ => None,
            };
            let mut testimony = None;
            let mut own = None;
            if self.lane.runs(index) {
                let step = &self.plan.steps()[index];
                let params = self.recordings.params(step)?;
                let value = match &recorded {
                    Some(_) if !(self.counted && step.numerics.out.is_half()) => None,
                    _ => Some(self.lane.run(index, &params)?),
                };
                if let Some(output) = value.as_ref().or(recorded.as_ref()) {
                    let lane = &self.lane;
                    let error_bound = lane.error_bound(index, &params, output, self.confidence)?;
                    match (&recorded, error_bound) {
                        (Some(recorded), Some(error_bound)) => {
                            testimony = Some(Testimony {
                                recorded: recorded.clone(),
                                value,
                                error_bound,
                            });
                        }
                        (_, error_bound) => own = value.map(|v| Value::computed(v, error_bound)),
                    }
                }
            }
            self.lane.keep(index, recorded.map(Value::given).or(own));
            if index == asked {
                return Ok(testimony);
            }
        }
        Ok(None)
    }
}
