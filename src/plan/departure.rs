//! Where two plans of one model compute a stage differently.

use super::{Plan, StageId, Step};
use std::collections::{BTreeMap, HashMap};

/// Two ways of computing one stage from the stages before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The first plan's way.
    pub ours: String,
    /// The other's.
    pub theirs: String,
    /// Parameters that the other needs for it and the first has no use for: a bias that is never
    /// added.
    pub lacks: Vec<String>,
}

impl Plan {
    /// The stages that `other` computes by other steps or with other roundings, as read off the
    /// two plans.
    ///
    /// A stage is described by the steps that lead to its plain value from the plain values of
    /// earlier stages, so that an extra rounding in between shows.
    pub fn departures(&self, other: &Self) -> BTreeMap<StageId, Departure> {
        let theirs = other.recipes();
        let ours = self.recipes();
        let pairs = ours.into_iter().filter_map(|(stage, ours)| {
            let theirs = theirs.get(stage)?;
            let same = ours.identity == theirs.identity;
            (!same).then(|| {
                let lacks = theirs
                    .params
                    .iter()
                    .filter(|name| !ours.params.contains(name));
                let departure = Departure {
                    lacks: lacks.cloned().collect(),
                    ours: ours.text,
                    theirs: theirs.text.clone(),
                };
                (stage.clone(), departure)
            })
        });
        pairs.collect()
    }

    fn recipes(&self) -> HashMap<&StageId, Recipe> {
        let mut recipes: HashMap<&StageId, Recipe> = HashMap::new();
        for step in self.steps() {
            // A later form of a stage continues the recipe of the earlier one.
            let begun = recipes.remove(&step.stage);
            let recipe = match begun {
                Some(begun) if begun.last == step.inputs[0] => begun.then(step),
                _ => Recipe::start(step),
            };
            recipes.insert(&step.stage, recipe);
        }
        recipes
    }
}

struct Recipe {
    text: String,
    identity: String,
    params: Vec<String>,
    last: StageId,
}

impl Recipe {
    fn start(step: &Step) -> Self {
        Self {
            text: step.to_string(),
            identity: identity(step),
            params: step.params.iter().map(|param| param.name.clone()).collect(),
            last: step.id.clone(),
        }
    }

    fn then(self, step: &Step) -> Self {
        Self {
            text: format!("{}, then {step}", self.text),
            identity: self.identity + &identity(step),
            params: [self.params, Self::start(step).params].concat(),
            last: step.id.clone(),
        }
    }
}

/// All that makes a difference in the result, apart from the names of the inputs.
fn identity(step: &Step) -> String {
    format!("{:?} {:?} {:?};", step.op, step.numerics, step.form)
}
