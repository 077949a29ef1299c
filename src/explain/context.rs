//! What rules can look at.

use super::Subgraph;
use super::modules::{Layer, Modules, Projection};
use crate::checkpoint::Weights;
use crate::error::Result;
use crate::op::{self, HeadPart, Op};
use crate::plan::{Plan, StageId, Step};
use crate::tensor::Tensor;

/// Gives the recorded value of a stage, if there is one.
pub type Recorded<'a> = &'a dyn Fn(&StageId) -> Result<Option<Tensor>>;

/// A failing subgraph and what lies around it.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The candidate's steps in the reference's arithmetic.
    pub subgraph: &'a Subgraph,
    /// The whole plan they are of.
    pub plan: &'a Plan,
    /// The candidate's weights.
    pub weights: &'a dyn Weights,
    /// What was recorded of other stages.
    pub recorded: Recorded<'a>,
}

impl<'a> Context<'a> {
    /// Whether values are few enough to be looked at one by one, several times over in fp64.
    pub(super) fn is_small(&self) -> bool {
        const MOST: usize = 1 << 26;
        self.subgraph.reference.len() <= MOST
    }

    pub(super) fn steps(&self) -> &'a [Step] {
        &self.subgraph.steps
    }

    /// The steps of the whole plan that read the subgraph's value.
    pub(super) fn readers(&self) -> impl Iterator<Item = &'a Step> {
        let value = self.steps().last().map(|step| &step.id);
        let steps = self.plan.steps().iter();
        steps.filter(move |step| value.is_some_and(|value| step.inputs.contains(value)))
    }

    /// Heads that lie side by side in the columns of the subgraph's value, if they do.
    pub(super) fn heads(&self) -> Option<usize> {
        let splits = |step: &Step| matches!(step.op, Op::SplitHeads(_));
        let context = |step: &Step| step.op == Op::Context(op::Context);
        let side_by_side = self.readers().any(splits) || self.steps().last().is_some_and(context);
        side_by_side
            .then(|| self.attention())?
            .map(|queries| queries.heads)
    }

    /// What the queries of the subgraph's block are split from.
    pub(super) fn attention(&self) -> Option<Projection<'a>> {
        let layer = self.layer();
        let mut queries = Modules::new(self.plan).queries();
        queries.find(|queries| queries.layer.step.stage.layer() == layer)
    }

    /// The projection that the subgraph's value is, if heads are split from it.
    pub(super) fn projection(&self) -> Option<Projection<'a>> {
        use HeadPart::{Key, Query, Value};
        let ours = |step: &Step| self.steps().iter().any(|our| our.id == step.id);
        let modules = Modules::new(self.plan);
        let splits = |step: &Step| matches!(step.op, Op::SplitHeads(_));
        self.readers().find(|step| splits(step))?;
        let mut all = [Query, Key, Value].into_iter();
        all.find_map(|part| {
            let mut projections = modules.projections(part);
            projections.find(|projection| ours(projection.layer.step))
        })
    }

    /// Those of a layer's parameters that the subgraph reads.
    pub(super) fn params_of(&self, layer: Layer<'_>) -> Vec<String> {
        let mut names = layer.params();
        names.retain(|name| self.subgraph.params.contains_key(name));
        names
    }

    /// The number of the block that the subgraph is in.
    pub(super) fn layer(&self) -> Option<usize> {
        self.steps().last()?.stage.layer()
    }
}
