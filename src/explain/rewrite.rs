//! A hypothesis about one subgraph.

use super::{Exchanged, Subgraph};
use crate::error::Result;
use crate::plan::{StageId, Step};
use crate::tensor::{DType, Tensor};
use std::collections::HashMap;

/// How much of a rewrite is taken from the data that it is to explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// Nothing: the rewritten subgraph gives definite values.
    Definite,
    /// Nothing, but it only says how far values may be off.
    Range,
    /// A parameter was fitted to the reference.
    Fitted,
    /// Two were.
    FittedTwice,
    /// Some of the values were taken from the reference: what speaks for it is that the others hold then.
    Taken,
}

type Edit<'a> = Box<dyn Fn(&mut Subgraph) -> Result<()> + 'a>;

/// A change of a subgraph, and what it would mean if it helped.
pub struct Rewrite<'a> {
    pub(super) finding: String,
    pub(super) remedy: String,
    pub(super) certainty: Certainty,
    /// The module that it is about, if it takes the weights of the same module of another layer.
    pub(super) exchanged: Option<Exchanged>,
    /// The parameters that it says something of.
    pub(super) about: Vec<String>,
    edit: Edit<'a>,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(
        finding: impl Into<String>,
        remedy: impl Into<String>,
        edit: impl Fn(&mut Subgraph) -> Result<()> + 'a,
    ) -> Self {
        Self {
            finding: finding.into(),
            remedy: remedy.into(),
            certainty: Certainty::Definite,
            exchanged: None,
            about: Vec::new(),
            edit: Box::new(edit),
        }
    }

    /// A change of one step.
    pub(super) fn of_step(
        id: &StageId,
        finding: impl Into<String>,
        remedy: impl Into<String>,
        edit: impl Fn(&mut Step) + 'a,
    ) -> Self {
        let id = id.clone();
        Self::new(finding, remedy, move |subgraph| {
            if let Some(step) = subgraph.steps.iter_mut().find(|step| step.id == id) {
                edit(step);
            }
            Ok(())
        })
    }

    /// A change of one parameter.
    pub(super) fn of_param(
        name: &str,
        finding: impl Into<String>,
        remedy: impl Into<String>,
        edit: impl Fn(&Tensor) -> Result<Tensor> + 'a,
    ) -> Self {
        Self::of_params(vec![name.to_owned()], finding, remedy, edit)
    }

    /// The same change of several parameters.
    pub(super) fn of_params(
        names: Vec<String>,
        finding: impl Into<String>,
        remedy: impl Into<String>,
        edit: impl Fn(&Tensor) -> Result<Tensor> + 'a,
    ) -> Self {
        let about = names.clone();
        let rewrite = Self::new(finding, remedy, move |subgraph| {
            for name in &names {
                if let Some(param) = subgraph.params.get_mut(name) {
                    *param = edit(param)?;
                }
            }
            Ok(())
        });
        Self { about, ..rewrite }
    }

    pub(super) fn about(self, name: &str) -> Self {
        let about = vec![name.to_owned()];
        Self { about, ..self }
    }

    pub(super) fn exchanging(self, exchanged: Option<Exchanged>) -> Self {
        Self { exchanged, ..self }
    }

    pub(super) fn certain(self, certainty: Certainty) -> Self {
        Self { certainty, ..self }
    }

    /// The subgraph as it would be; `None` if its steps would not fit together, which no reference
    /// can have computed.
    ///
    /// # Errors
    /// If what the hypothesis is about cannot be read.
    pub(super) fn applied(&self, subgraph: &Subgraph) -> Result<Option<Subgraph>> {
        let mut subgraph = subgraph.clone();
        (self.edit)(&mut subgraph)?;
        Ok(fits(&subgraph)?.then_some(subgraph))
    }
}

/// Whether every step can be computed and applies to what it reads, and the last gives a value of the reference's shape.
fn fits(subgraph: &Subgraph) -> Result<bool> {
    let has_params = |step: &Step| {
        step.params.iter().all(|param| {
            let value = subgraph.params.get(&param.name);
            value.is_some_and(|value| {
                let in_type = value.dtype() == step.numerics.out || step.op.mixes_types();
                value.shape() == param.shape && in_type
            })
        })
    };
    let is_computed = |step: &Step| step.op.operation().cpu_implements(step.numerics);
    if !subgraph
        .steps
        .iter()
        .all(|step| has_params(step) && is_computed(step))
    {
        return Ok(false);
    }
    let subgraph = subgraph.narrowed()?;
    let given = subgraph.given.iter();
    let mut known: HashMap<&StageId, (Vec<usize>, DType)> = given
        .map(|(id, value)| (id, (value.shape().to_vec(), value.dtype())))
        .collect();
    for step in &subgraph.steps {
        let inputs: Option<Vec<_>> = step.inputs.iter().map(|id| known.get(id)).collect();
        let Some(inputs) = inputs else {
            return Ok(false);
        };
        let out = step.numerics.out;
        let in_type = step.op.operation().reads_tokens()
            || step.op.mixes_types()
            || inputs.iter().all(|(_, dtype)| *dtype == out);
        let shapes: Vec<&[usize]> = inputs.iter().map(|(shape, _)| shape.as_slice()).collect();
        let params: Vec<&[usize]> = step.params.iter().map(|p| p.shape.as_slice()).collect();
        match step.op.shape(&shapes, &params).filter(|_| in_type) {
            Some(shape) => known.insert(&step.id, (shape, out)),
            None => return Ok(false),
        };
    }
    let last = subgraph.steps.last().and_then(|step| known.get(&step.id));
    Ok(last.is_some_and(|(shape, _)| shape == subgraph.reference.shape()))
}

/// The parameters of a layer that may have been treated alike: all of them, or one.
pub(super) fn param_groups(names: Vec<String>) -> Vec<(Vec<String>, &'static str)> {
    match names.as_slice() {
        [weight, bias] => vec![
            (names.clone(), "weight and bias"),
            (vec![weight.clone()], "weight"),
            (vec![bias.clone()], "bias"),
        ],
        [only] if only.ends_with("bias") => vec![(names, "bias")],
        _ => vec![(names, "weight")],
    }
}
