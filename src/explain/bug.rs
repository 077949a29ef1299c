//! Bugs of conversions, made on purpose.
//!
//! A bug finds its place from the plan alone, so that it can be put into any model that has such a
//! place, and is a change of weights, of steps, or of both.

use super::modules::Modules;
use crate::checkpoint::Weights;
use crate::error::Result;
use crate::plan::{Plan, StageId, Step};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, HashSet};

/// A bug that a conversion may have.
pub struct Bug {
    /// What was done: `qkv rows [3, heads, d]`.
    pub name: &'static str,
    /// Whether it is one in fp32, too: other rounding points are not.
    pub in_fp32: bool,
    edits: fn(Modules<'_>) -> Option<Edits>,
}

/// Changes a step, in whatever arithmetic its plan is.
pub type StepEdit = Box<dyn Fn(&mut Step) + Send + Sync>;

/// A bug in a model: what is not as it was.
pub struct Injected {
    /// Part of the finding that names it.
    pub named_by: String,
    /// Parameters that have other values, or are new.
    pub weights: BTreeMap<String, Tensor>,
    /// What is changed in the model's steps.
    pub rewriting: StepEdit,
}

impl Bug {
    /// A bug in every type. `edits` gives none for models that have no place for it.
    pub(super) fn new(name: &'static str, edits: fn(Modules<'_>) -> Option<Edits>) -> Self {
        Self {
            name,
            in_fp32: true,
            edits,
        }
    }

    /// A bug of half precision only.
    pub(super) fn of_rounding(name: &'static str, edits: fn(Modules<'_>) -> Option<Edits>) -> Self {
        Self {
            in_fp32: false,
            ..Self::new(name, edits)
        }
    }

    /// The bug in a model; `None` if the model has no place for it, or is the same with it: a norm
    /// that is left at init where training never moved it.
    ///
    /// # Errors
    /// If a weight cannot be read.
    pub fn inject(&self, plan: &Plan, weights: &dyn Weights) -> Result<Option<Injected>> {
        let Some(edits) = (self.edits)(Modules::new(plan)) else {
            return Ok(None);
        };
        let mut changed = BTreeMap::new();
        for edit in edits.weights {
            let from: Vec<Tensor> = edit
                .from
                .iter()
                .map(|name| weights.load(name))
                .collect::<Result<_>>()?;
            let value = (edit.value)(&from)?;
            let same = match weights.stored(&edit.name) {
                // Modules that are unlike in this model cannot be taken for one another.
                Some(stored) if stored.shape != value.shape() => return Ok(None),
                Some(_) => weights.load(&edit.name)?.bits_equal(&value),
                None => false,
            };
            if !same {
                changed.insert(edit.name, value);
            }
        }
        let steps = edits.steps;
        let injected = Injected {
            named_by: edits.named_by,
            weights: changed,
            rewriting: Box::new(move |step| steps.iter().for_each(|edit| edit(step))),
        };
        let changes = plan.steps().iter().any(|step| injected.changes(step));
        Ok(changes.then_some(injected))
    }
}

impl Injected {
    /// The first stage that the bug shows at: the first of the recorded steps whose value it
    /// changes. `None` if none is recorded after it.
    pub fn first_stage<'a>(
        &self,
        plan: &'a Plan,
        recorded: impl Fn(&Step) -> bool,
    ) -> Option<&'a StageId> {
        let mut wrong: HashSet<&StageId> = HashSet::new();
        for step in plan.steps() {
            if self.changes(step) || step.inputs.iter().any(|input| wrong.contains(input)) {
                if recorded(step) {
                    return Some(&step.stage);
                }
                wrong.insert(&step.id);
            }
        }
        None
    }

    /// Whether a step computes something else on the same inputs.
    fn changes(&self, step: &Step) -> bool {
        let mut rewritten = step.clone();
        (self.rewriting)(&mut rewritten);
        let reads = |name: &String| step.params.iter().any(|param| param.name == *name);
        rewritten != *step || self.weights.keys().any(reads)
    }
}

/// What a bug changes in a model.
pub(super) struct Edits {
    named_by: String,
    weights: Vec<WeightEdit>,
    steps: Vec<StepEdit>,
}

type TensorEdit = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

struct WeightEdit {
    name: String,
    /// The parameters whose values it is made from.
    from: Vec<String>,
    value: TensorEdit,
}

impl Edits {
    /// None yet, of a bug that a finding with these words names.
    pub(super) fn named_by(words: impl Into<String>) -> Self {
        Self {
            named_by: words.into(),
            weights: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// A parameter with other values.
    pub(super) fn weight(
        self,
        name: &str,
        value: impl Fn(&Tensor) -> Result<Tensor> + 'static,
    ) -> Self {
        self.weight_from(name, name, value)
    }

    /// The same done to several parameters.
    pub(super) fn weights(
        self,
        names: impl IntoIterator<Item = String>,
        value: impl Fn(&Tensor) -> Result<Tensor> + Clone + 'static,
    ) -> Self {
        let names = names.into_iter();
        names.fold(self, |edits, name| edits.weight(&name, value.clone()))
    }

    /// A parameter, which may be new, made from the values of another.
    pub(super) fn weight_from(
        mut self,
        name: &str,
        from: &str,
        value: impl Fn(&Tensor) -> Result<Tensor> + 'static,
    ) -> Self {
        self.weights.push(WeightEdit {
            name: name.to_owned(),
            from: vec![from.to_owned()],
            value: Box::new(move |from| value(&from[0])),
        });
        self
    }

    /// A parameter made from the values of two.
    pub(super) fn weight_of_two(
        mut self,
        name: &str,
        from: [&str; 2],
        value: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + 'static,
    ) -> Self {
        self.weights.push(WeightEdit {
            name: name.to_owned(),
            from: from.map(str::to_owned).to_vec(),
            value: Box::new(move |from| value(&from[0], &from[1])),
        });
        self
    }

    /// A parameter with the values of another.
    pub(super) fn copy(self, name: &str, from: &str) -> Self {
        self.weight_from(name, from, |value| Ok(value.clone()))
    }

    /// Two parameters with each other's values.
    pub(super) fn swap(self, a: &str, b: &str) -> Self {
        self.copy(a, b).copy(b, a)
    }

    /// A change of one step.
    pub(super) fn step(
        self,
        id: &StageId,
        edit: impl Fn(&mut Step) + Send + Sync + 'static,
    ) -> Self {
        let id = id.clone();
        self.steps(move |step| {
            if step.id == id {
                edit(step);
            }
        })
    }

    /// A change of all steps that it has anything to do with.
    pub(super) fn steps(mut self, edit: impl Fn(&mut Step) + Send + Sync + 'static) -> Self {
        self.steps.push(Box::new(edit));
        self
    }
}

/// The size of each of so many equal parts.
pub(super) fn part(whole: usize, parts: usize) -> Option<usize> {
    whole.is_multiple_of(parts).then(|| whole / parts)
}
