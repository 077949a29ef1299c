//! What lies between a recorded value and the recorded values it comes from.
//!
//! A reference need not hold every stage. An isolated run goes on with its own values where none was
//! recorded, so that a recorded value is judged over all steps since the recorded ones: with the roundings
//! of all of them, and in the reference's arithmetic if any of them rounds elsewhere there.

use crate::plan::{Plan, PlanDifference, StageId, Step};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The steps over which a stage is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// Stages computed on the way to it that were not recorded, in execution order.
    pub through: Vec<StageId>,
    /// Where candidate and reference compute differently: stages on the way, and the stage itself.
    pub differences: Vec<(StageId, PlanDifference)>,
}

impl Stretch {
    /// The stretches that end at some steps of a plan, by the step's id. Values of the steps in `known`
    /// are recorded; `differences` says where the reference computes stages in another way.
    pub(super) fn all<'p>(
        plan: &'p Plan,
        ends: impl Iterator<Item = &'p StageId>,
        known: &HashSet<&StageId>,
        differences: &BTreeMap<StageId, PlanDifference>,
    ) -> HashMap<StageId, Self> {
        let recorded = plan.steps().iter().filter(|step| known.contains(&step.id));
        let recorded: HashSet<&StageId> = recorded.map(|step| &step.stage).collect();
        let stretch = |end: &StageId| {
            let steps = since_recorded(plan, end, known);
            let own = steps.last().map(|step| &step.stage);
            let held = |step: &Step| recorded.contains(&step.stage) && Some(&step.stage) != own;
            let mut stages: Vec<&StageId> = Vec::new();
            for step in &steps {
                // What only moves elements is no computation that could be missing, and one variant of a
                // stage is as good as another.
                let counts = !step.op.locality().is_copy() && !held(step);
                if counts && stages.last() != Some(&&step.stage) {
                    stages.push(&step.stage);
                }
            }
            let differing = stages.iter().filter_map(|stage| {
                let difference = differences.get(*stage)?;
                Some(((*stage).clone(), difference.clone()))
            });
            Self {
                differences: differing.collect(),
                through: stages
                    .iter()
                    .filter(|stage| Some(**stage) != own)
                    .map(|stage| (*stage).clone())
                    .collect(),
            }
        };
        ends.map(|end| (end.clone(), stretch(end))).collect()
    }

    /// Of stages that were recorded on both sides, so that nothing was run on the way.
    pub(super) fn of_stages_alone(
        differences: BTreeMap<StageId, PlanDifference>,
    ) -> HashMap<StageId, Self> {
        let alone = differences.into_iter().map(|(stage, difference)| {
            let stretch = Self {
                through: Vec::new(),
                differences: vec![(stage.clone(), difference)],
            };
            (stage, stretch)
        });
        alone.collect()
    }

    /// Whether both sides have the same exact result all the way.
    pub(super) fn is_of_one_formula(&self) -> bool {
        self.differences
            .iter()
            .all(|(_, difference)| !difference.formula)
    }

    /// How one of its stages is computed differently, if it is.
    pub fn difference(&self, stage: &StageId) -> Option<&PlanDifference> {
        let own = self.differences.iter().find(|(of, _)| of == stage);
        own.map(|(_, difference)| difference)
    }

    /// Parameters that the reference needs and the candidate has no use for.
    pub fn lacks(&self) -> impl Iterator<Item = &str> {
        let lacks = self
            .differences
            .iter()
            .flat_map(|(_, difference)| &difference.lacks);
        lacks.map(String::as_str)
    }
}

/// The steps that lead from recorded values to the value of one, which is the last of them. Values of the
/// steps in `known` are recorded.
pub(super) fn since_recorded<'p>(
    plan: &'p Plan,
    end: &StageId,
    known: &HashSet<&StageId>,
) -> Vec<&'p Step> {
    let mut needed: HashSet<&StageId> = HashSet::new();
    let mut steps = Vec::new();
    for step in plan.steps().iter().rev() {
        if step.id == *end || needed.contains(&step.id) && !known.contains(&step.id) {
            needed.extend(&step.inputs);
            steps.push(step);
        }
    }
    steps.reverse();
    steps
}
