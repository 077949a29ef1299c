//! Why stages fail. Hypotheses run on the CPU whatever the candidate ran on: a bug is the same there, and
//! what only a GPU's order of summation makes is noise.

use super::prepare::{Prepared, Side};
use super::{Event, StageResult, Verdict};
use crate::backend::Cpu;
use crate::case::Mode;
use crate::error::Result;
use crate::exec::params_of;
use crate::explain::{Context, Evidence, Explanation, OwnArithmetic, Subgraph, explain, rules};
use crate::plan::{Schedule, StageId, Step};
use crate::tensor::Tensor;
use std::collections::{HashMap, HashSet};

/// Explains the stages that fail on the reference's own inputs. Equal explanations of stages of
/// one kind are one; where nothing explains the first of a kind, the others are not searched.
pub(super) fn failures(
    prepared: &Prepared<'_>,
    stages: &[StageResult],
    on: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Explanation>> {
    let failed = stages
        .iter()
        .filter(|result| result.mode == Mode::Isolated && result.verdict() == Verdict::Fail);
    let mut all: Vec<Explanation> = Vec::new();
    for result in failed {
        let kind = result.stage.kind();
        let mut same_kind = all.iter().filter(|other| other.kind() == kind);
        if same_kind.any(|other| !other.complete) {
            continue;
        }
        let Some(subgraph) = subgraph(prepared, &result.stage)? else {
            continue;
        };
        on(Event::Explaining {
            stage: result.stage.as_str(),
            hypotheses: rules().len(),
        });
        let (mut known, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|other| other.kind() == kind);
        let found = explain(
            &Context {
                subgraph: &subgraph,
                plan: &prepared.reference.plan,
                weights: prepared.weights.as_ref(),
                recorded: &|step| recorded(prepared, step),
            },
            &own_arithmetic(prepared, &subgraph, result),
            &known,
            &Cpu,
            prepared.options.confidence,
            &mut || on(Event::Tried),
        )?;
        match known.iter_mut().find(|other| other.says(&found)) {
            Some(other) => other.stages.extend(found.stages),
            None => known.push(found),
        }
        all = others;
        all.extend(known);
    }
    on(Event::Finished);
    Ok(all)
}

/// The candidate as it was run, where its plan differs within the subgraph.
fn own_arithmetic<'a>(
    prepared: &'a Prepared<'_>,
    subgraph: &Subgraph,
    result: &StageResult,
) -> OwnArithmetic<'a> {
    let mut plan_differences = Vec::new();
    for step in &subgraph.steps {
        if let Some(difference) = prepared.differences.get_key_value(&step.stage)
            && !plan_differences.contains(&difference)
        {
            plan_differences.push(difference);
        }
    }
    OwnArithmetic {
        plan_differences,
        evidence: Evidence::new(&result.metrics),
    }
}

/// The reference's steps from recorded values to a stage, on the candidate's weights; `None` if the
/// stage's values were not recorded.
fn subgraph(prepared: &Prepared<'_>, stage: &StageId) -> Result<Option<Subgraph>> {
    let Side { plan, alignment } = &prepared.reference;
    let weights = prepared.weights.as_ref();
    let Some(aligned) = alignment.of_stage(stage) else {
        return Ok(None);
    };
    let Some(reference) = aligned.read_full(weights)? else {
        return Ok(None);
    };
    let wanted = HashSet::from([&aligned.id]);
    let schedule = Schedule::new(plan.steps(), &wanted, &alignment.full());
    let mut given = HashMap::from(prepared.start.clone());
    for id in &schedule.supply {
        given.extend(recorded(prepared, id)?.map(|value| (id.clone(), value)));
    }
    let steps = plan.steps().iter();
    let steps = steps.filter(|step| schedule.run.contains(&step.id));
    let steps: Vec<Step> = steps.cloned().collect();
    let mut params = HashMap::new();
    for step in &steps {
        let names = step.params.iter().map(|param| param.name.clone());
        params.extend(names.zip(params_of(step, weights)?));
    }
    let mut subgraph = Subgraph::new(steps, given, params, reference.aligned);
    subgraph.padding = prepared.golden.padding().cloned();
    Ok(Some(subgraph))
}

/// What was recorded of one of the reference's steps, if all its values were.
fn recorded(prepared: &Prepared<'_>, step: &StageId) -> Result<Option<Tensor>> {
    let Some(aligned) = prepared.reference.alignment.of(step) else {
        return Ok(None);
    };
    let recorded = aligned.read_full(prepared.weights.as_ref())?;
    Ok(recorded.map(|recorded| recorded.aligned))
}
