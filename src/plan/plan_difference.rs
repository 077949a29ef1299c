//! Where two plans of one model compute a stage differently.

use super::{Plan, StageId, Step, Variant};
use crate::op::DividedBy;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Two ways of computing one stage from the stages before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanDifference {
    /// The first plan's way.
    pub ours: String,
    /// The other's.
    pub theirs: String,
    /// Whether more than roundings differs: an epsilon, a function, a bias that is never added. Else
    /// both ways have the same exact result.
    pub formula: bool,
    /// Parameters that the other needs for it and the first has no use for: a bias that is never
    /// added.
    pub lacks: Vec<String>,
}

impl PlanDifference {
    /// What it is, in a few words.
    pub fn name(&self) -> &'static str {
        if self.formula {
            "different formula"
        } else {
            "different rounding points"
        }
    }
}

impl Plan {
    /// The stages that `other` computes by other steps or with other roundings, as read off the
    /// two plans.
    ///
    /// A stage is described by the steps that lead to its plain value from the plain values of
    /// earlier stages, so that an extra rounding in between shows.
    pub fn differences(&self, other: &Self) -> BTreeMap<StageId, PlanDifference> {
        let common: HashSet<&StageId> = self.stages().into_iter().collect();
        let common = other
            .stages()
            .into_iter()
            .filter(|stage| common.contains(stage));
        let common: HashSet<&StageId> = common.collect();
        let (ours, theirs) = (self.recipes(&common), other.recipes(&common));
        let pairs = ours.into_iter().filter_map(|(stage, ours)| {
            let theirs = theirs.get(stage)?;
            let same = ours.identity == theirs.identity;
            (!same).then(|| {
                let lacks = theirs
                    .params
                    .iter()
                    .filter(|name| !ours.params.contains(name));
                let plan_difference = PlanDifference {
                    formula: ours.formulas() != theirs.formulas(),
                    lacks: lacks.cloned().collect(),
                    ours: ours.text,
                    theirs: theirs.text.clone(),
                };
                (stage.clone(), plan_difference)
            })
        });
        pairs.collect()
    }

    /// How the stages in `common` are computed: steps of other stages belong to those that read them.
    fn recipes(&self, common: &HashSet<&StageId>) -> HashMap<&StageId, Recipe> {
        let mut recipes: HashMap<&StageId, Recipe> = HashMap::new();
        let mut of_others: HashMap<&StageId, Recipe> = HashMap::new();
        let variants: HashMap<&StageId, Variant> = self
            .steps()
            .iter()
            .map(|step| (&step.id, step.variant))
            .collect();
        let divided_by = |step: &Step| {
            let variant = step.inputs.first().and_then(|input| variants.get(input));
            variant.map_or(1.0, |variant| variant.divided_by)
        };
        for step in self.steps() {
            let own = match recipes.remove(&step.stage) {
                // A later variant of a stage continues the recipe of the earlier one.
                Some(earlier) if earlier.last == step.inputs[0] => earlier.then(step),
                _ => Recipe::start(step, divided_by(step)),
            };
            let before = step.inputs.iter().filter_map(|input| of_others.get(input));
            let recipe = before.fold(own, |own, before| own.after(before));
            if common.contains(&step.stage) {
                recipes.insert(&step.stage, recipe);
            } else {
                of_others.insert(&step.id, recipe);
            }
        }
        recipes
    }
}

struct Recipe {
    text: String,
    identity: String,
    /// Of its steps.
    formula: String,
    params: Vec<String>,
    last: StageId,
}

impl Recipe {
    fn start(step: &Step, input_divided_by: f32) -> Self {
        Self {
            text: step.to_string(),
            identity: identity(step),
            formula: formula(step, input_divided_by),
            params: step.params.iter().map(|param| param.name.clone()).collect(),
            last: step.id.clone(),
        }
    }

    fn then(self, step: &Step) -> Self {
        Self {
            text: format!("{}, then {step}", self.text),
            identity: self.identity + &identity(step),
            formula: self.formula + &formula(step, 1.0),
            params: [self.params, Self::start(step, 1.0).params].concat(),
            last: step.id.clone(),
        }
    }

    /// The same after the steps of another stage.
    fn after(self, before: &Self) -> Self {
        Self {
            text: format!("{}, then {}", before.text, self.text),
            identity: format!("{}{}", before.identity, self.identity),
            formula: format!("{}{}", before.formula, self.formula),
            params: [before.params.clone(), self.params].concat(),
            last: self.last,
        }
    }

    /// The formulas of its steps. Which comes first makes no difference between stages that both plans have:
    /// what scales the rows of a product may be multiplied before it or after it.
    fn formulas(&self) -> Vec<&str> {
        let mut formulas: Vec<&str> = self.formula.split(';').collect();
        formulas.sort();
        formulas
    }
}

/// All that makes a difference in the result, apart from the names of the inputs and what is the same
/// formula, rounded at the same places, on another unit.
fn identity(step: &Step) -> String {
    let numerics = step.numerics.in_own_order();
    format!("{:?} {numerics:?} {:?};", step.op, step.variant)
}

/// What a step computes, apart from roundings: biases are added in a step of their own, sums are
/// whole, and scaled values are those that are scaled back.
fn formula(step: &Step, input_divided_by: f32) -> String {
    step.op.operation().formula(DividedBy {
        input: input_divided_by,
        result: step.variant.divided_by,
    })
}
