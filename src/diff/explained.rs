//! Failing stages, taken to pieces for an explanation. Hypotheses run on the CPU whatever the candidate
//! ran on: a bug is the same there, and what only a GPU's order of summation makes is noise.

use super::reference::Recordings;
use super::{Event, StageResult, Verdict};
use crate::backend::Cpu;
use crate::case::Mode;
use crate::checkpoint::Weights;
use crate::error::Result;
use crate::explain::{
    Context, Evidence, Explanation, OwnArithmetic, Subgraph, explain, hypotheses,
};
use crate::golden::Reference;
use crate::op::Confidence;
use crate::plan::{Plan, PlanDifference, StageId};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The candidate's model in the reference's arithmetic, with what was recorded of it.
pub(super) struct Explained<'a> {
    pub(super) plan: &'a Plan,
    pub(super) recordings: &'a Recordings<'a>,
    pub(super) weights: &'a dyn Weights,
    pub(super) tokens: &'a Tensor,
    /// Where the candidate's own arithmetic parts from it.
    pub(super) parts: &'a BTreeMap<StageId, PlanDifference>,
    pub(super) confidence: Confidence,
}

impl Explained<'_> {
    /// Explains the stages that fail on the reference's own inputs. Equal explanations of stages of
    /// one kind are one; where nothing explains the first of a kind, the others are not searched.
    pub(super) fn failures(
        &self,
        stages: &[StageResult],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<Vec<Explanation>> {
        let failed = stages
            .iter()
            .filter(|result| result.mode == Mode::Isolated && result.verdict() == Verdict::Fail);
        let mut all: Vec<Explanation> = Vec::new();
        for result in failed {
            let kind = result.stage.kind();
            if all
                .iter()
                .any(|other| !other.complete && other.kind() == kind)
            {
                continue;
            }
            let Some(subgraph) = self.subgraph(&result.stage)? else {
                continue;
            };
            let (known, others): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|other| other.kind() == kind);
            all = others;
            on(Event::Explaining {
                stage: result.stage.as_str(),
                hypotheses: hypotheses(),
            });
            let found = explain(
                &Context {
                    subgraph: &subgraph,
                    plan: self.plan,
                    weights: self.weights,
                    recorded: &|id| self.value(id),
                },
                &self.own(&subgraph, result),
                &known,
                &Cpu,
                self.confidence,
                &mut || on(Event::Tried),
            )?;
            let mut known = known;
            match known.iter_mut().find(|other| other.says(&found)) {
                Some(other) => other.stages.extend(found.stages),
                None => known.push(found),
            }
            all.extend(known);
        }
        on(Event::Finished);
        Ok(all)
    }

    fn own(&self, subgraph: &Subgraph, result: &StageResult) -> OwnArithmetic<'_> {
        let mut plan_differences: Vec<(&StageId, &PlanDifference)> = Vec::new();
        for step in &subgraph.steps {
            if let Some(part) = self.parts.get_key_value(&step.stage)
                && !plan_differences.contains(&part)
            {
                plan_differences.push(part);
            }
        }
        OwnArithmetic {
            plan_differences,
            evidence: Evidence::of(&result.metrics),
        }
    }

    /// The steps from recorded values to a stage; `None` if its values were not recorded.
    fn subgraph(&self, stage: &StageId) -> Result<Option<Subgraph>> {
        let known = self.recordings.full();
        let index = self
            .recordings
            .iter()
            .find(|(index, recorded)| *recorded == stage && known.contains(index));
        let Some((index, _)) = index else {
            return Ok(None);
        };
        let Some(Reference::Full(reference)) = self.recordings.value(index)? else {
            return Ok(None);
        };
        let schedule = self.plan.schedule(&BTreeSet::from([index]), &known);
        let mut given = HashMap::from([(StageId::TOKENS.into(), self.tokens.clone())]);
        for supplied in schedule.supply {
            if let Some(Reference::Full(value)) = self.recordings.value(supplied)? {
                given.insert(self.plan.steps()[supplied].id.clone(), value);
            }
        }
        let steps: Vec<_> = schedule
            .run
            .into_iter()
            .map(|index| self.plan.steps()[index].clone())
            .collect();
        let mut params = HashMap::new();
        for step in &steps {
            for (param, value) in step.params.iter().zip(self.recordings.params(step)?) {
                params.insert(param.name.clone(), value);
            }
        }
        Ok(Some(Subgraph::new(steps, given, params, reference)))
    }

    fn value(&self, id: &StageId) -> Result<Option<Tensor>> {
        let index = self.plan.steps().iter().position(|step| step.id == *id);
        let Some(index) = index else {
            return Ok(None);
        };
        Ok(match self.recordings.value(index)? {
            Some(Reference::Full(value)) => Some(value),
            _ => None,
        })
    }
}
