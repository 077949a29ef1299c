//! Why stages fail. Hypotheses run on the CPU whatever the candidate ran on: a bug is the same there, and
//! what only a GPU's order of summation makes is noise.

use super::prepare::{Prepared, Side};
use super::{Event, StageResult, Verdict};
use crate::backend::Cpu;
use crate::case::Mode;
use crate::error::Result;
use crate::exec::params_of;
use crate::explain::{
    Context, Evidence, Exchanged, Explanation, OwnArithmetic, Subgraph, explain, rules,
};
use crate::plan::{Schedule, StageId, Step};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How many stages of a kind are searched where nothing explains them.
const UNEXPLAINED: usize = 2;

/// Explains the stages that fail on the reference's own inputs. Equal explanations of stages of
/// one kind are one, and so are those of two layers that have each other's weights; where nothing explains the
/// first of a kind, the others are listed.
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
        let same_kind = all
            .iter_mut()
            .filter(|other| other.kind() == kind && !other.complete);
        let mut unexplained: Vec<&mut Explanation> = same_kind.collect();
        if unexplained.len() >= UNEXPLAINED
            && let Some(last) = unexplained.pop()
        {
            last.untried.push(result.stage.clone());
            continue;
        }
        let Some(subgraph) = subgraph(prepared, &result.stage)? else {
            all.push(Explanation {
                stages: vec![result.stage.clone()],
                before: Evidence::new(&result.metrics),
                causes: Vec::new(),
                complete: false,
                hints: vec![
                    "only statistics of it were recorded: no cause can be tried on them".into(),
                ],
                untried: Vec::new(),
            });
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
    let mut all = of_one_weight(equal(swapped(all)));
    let place = |stage: &StageId| stages.iter().position(|result| result.stage == *stage);
    for explanation in &mut all {
        explanation.stages.sort_by_key(place);
    }
    Ok(all)
}

/// Explanations that say the same of several kinds of stages, joined: a type that all weights went through is one
/// cause.
fn equal(all: Vec<Explanation>) -> Vec<Explanation> {
    let mut rest: Vec<Explanation> = Vec::new();
    for mut explanation in all {
        match rest.iter_mut().find(|other| other.says(&explanation)) {
            Some(other) => other.stages.append(&mut explanation.stages),
            None => rest.push(explanation),
        }
    }
    rest
}

/// Explanations with those of one weight that several stages read joined: a tied head is wrong where its embedding is, and
/// shows more of it.
fn of_one_weight(all: Vec<Explanation>) -> Vec<Explanation> {
    fn weight(explanation: &Explanation) -> Option<&String> {
        match explanation.causes.as_slice() {
            [cause] if explanation.complete => cause.about.iter().find(|name| is_weight(name)),
            _ => None,
        }
    }
    fn is_weight(name: &str) -> bool {
        !name.ends_with("bias")
    }
    let mut rest: Vec<Explanation> = Vec::new();
    for mut explanation in all {
        let name = weight(&explanation);
        let same = rest.iter_mut().find(|other| {
            name.is_some() && weight(other) == name && other.kind() != explanation.kind()
        });
        match same {
            Some(other) => {
                let kind = explanation.kind();
                other.causes[0].finding += &format!("; {kind} reads the same weight");
                other.stages.append(&mut explanation.stages);
            }
            None => rest.push(explanation),
        }
    }
    rest
}

/// Explanations with those of two layers that have each other's weights joined: one cause, not one a module.
fn swapped(all: Vec<Explanation>) -> Vec<Explanation> {
    /// Modules of a layer that have the other's weights before it is the layer that has.
    const MODULES: usize = 3;
    fn exchanged(explanation: &Explanation) -> Option<&Exchanged> {
        match explanation.causes.as_slice() {
            [cause] if explanation.stages.len() == 1 => cause.exchanged.as_ref(),
            _ => None,
        }
    }
    let mut found: BTreeMap<[usize; 2], BTreeSet<String>> = BTreeMap::new();
    for Exchanged { module, layers } in all.iter().filter_map(exchanged) {
        found.entry(*layers).or_default().insert(module.clone());
    }
    let has = |layers: [usize; 2]| {
        found
            .get(&layers)
            .is_some_and(|modules| modules.len() >= MODULES)
    };
    let mut swaps: BTreeMap<[usize; 2], usize> = BTreeMap::new();
    let mut rest: Vec<Explanation> = Vec::new();
    for mut explanation in all {
        let layers = exchanged(&explanation).map(|exchanged| exchanged.layers);
        let Some([ours, theirs]) = layers.filter(|[a, b]| has([*a, *b]) && has([*b, *a])) else {
            rest.push(explanation);
            continue;
        };
        let pair = [ours.min(theirs), ours.max(theirs)];
        match swaps.get(&pair) {
            Some(place) => rest[*place].stages.append(&mut explanation.stages),
            None => {
                swaps.insert(pair, rest.len());
                let cause = &mut explanation.causes[0];
                let [first, second] = pair;
                cause.finding = format!(
                    "layers {first} and {second} are swapped: each has the other's weights"
                );
                cause.remedy = "with the other layer's weights".into();
                rest.push(explanation);
            }
        }
    }
    rest
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
