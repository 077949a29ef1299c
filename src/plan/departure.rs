//! Where two plans of one model compute a stage differently.

use super::{Form, Op, Plan, StageId, Step};
use std::collections::{BTreeMap, HashMap};

/// Two ways of computing one stage from the stages before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
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

impl Departure {
    /// What it is, in two words.
    pub fn name(&self) -> &'static str {
        match self.formula {
            true => "computes otherwise",
            false => "rounds elsewhere",
        }
    }
}

impl Plan {
    /// The stages that `other` computes by other steps or with other roundings, as read off the
    /// two plans.
    ///
    /// A stage is described by the steps that lead to its plain value from the plain values of
    /// earlier stages, so that an extra rounding in between shows.
    pub fn departures(&self, other: &Self) -> BTreeMap<StageId, Departure> {
        let (ours, theirs) = (self.recipes(), other.recipes());
        let pairs = ours.into_iter().filter_map(|(stage, ours)| {
            let theirs = theirs.get(stage)?;
            let same = ours.identity == theirs.identity;
            (!same).then(|| {
                let lacks = theirs
                    .params
                    .iter()
                    .filter(|name| !ours.params.contains(name));
                let departure = Departure {
                    formula: ours.formula != theirs.formula,
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
        let forms: HashMap<&StageId, Form> = self
            .steps()
            .iter()
            .map(|step| (&step.id, step.form))
            .collect();
        let divided_by = |step: &Step| {
            let form = step.inputs.first().and_then(|input| forms.get(input));
            form.map_or(1.0, |form| form.divided_by)
        };
        for step in self.steps() {
            // A later form of a stage continues the recipe of the earlier one.
            let begun = recipes.remove(&step.stage);
            let recipe = match begun {
                Some(begun) if begun.last == step.inputs[0] => begun.then(step),
                _ => Recipe::start(step, divided_by(step)),
            };
            recipes.insert(&step.stage, recipe);
        }
        recipes
    }
}

struct Recipe {
    text: String,
    identity: String,
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
}

/// All that makes a difference in the result, apart from the names of the inputs.
fn identity(step: &Step) -> String {
    format!("{:?} {:?} {:?};", step.op, step.numerics, step.form)
}

/// What a step computes, apart from roundings: biases are added in a step of their own, sums are
/// whole, and scaled values are those that are scaled back. Scales and slopes are compared in single
/// precision's leading digits, since frameworks round them on different ways.
fn formula(step: &Step, input_divided_by: f32) -> String {
    let figure = |value: f32| format!("{value:.4e}");
    match &step.op {
        Op::Linear { bias, .. } => match bias {
            true => "product;bias;".into(),
            false => "product;".into(),
        },
        Op::AddBias => "bias;".into(),
        Op::AttentionScores {
            product_scale,
            alibi_scale,
            alibi_slopes,
            alibi_form,
        } => {
            let divided_by = step.form.divided_by;
            let scales = [product_scale, alibi_scale].map(|scale| figure(scale * divided_by));
            let slopes: Vec<String> = alibi_slopes.iter().copied().map(figure).collect();
            format!("scores {scales:?} {slopes:?} {alibi_form:?};")
        }
        Op::Softmax { scale, mask } => {
            format!("softmax {} {mask:?};", figure(scale / input_divided_by))
        }
        op => format!("{op:?};"),
    }
}
