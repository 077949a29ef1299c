//! Where a model's modules are, found from what its steps do, whatever they are called.

use crate::op::{self, HeadPart, Op, QkvLayout};
use crate::plan::{Param, Plan, StageId, Step};

/// The modules of a plan, each kind in execution order.
#[derive(Clone, Copy)]
pub(super) struct Modules<'a> {
    plan: &'a Plan,
}

/// A linear layer.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    /// Its product.
    pub(super) step: &'a Step,
    pub(super) weight: &'a Param,
    /// Its bias, which the product or a later step adds.
    pub(super) bias: Option<&'a Param>,
    /// Rows of the weight.
    pub(super) outputs: usize,
    /// Its columns.
    pub(super) inputs: usize,
}

/// A projection that the heads of queries are split from.
#[derive(Clone, Copy)]
pub(super) struct Projection<'a> {
    pub(super) layer: Layer<'a>,
    /// How keys and values lie in it, if they do.
    pub(super) layout: QkvLayout,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
}

impl<'a> Modules<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        Self { plan }
    }

    pub(super) fn steps(self) -> &'a [Step] {
        self.plan.steps()
    }

    pub(super) fn embedding(self) -> Option<&'a Step> {
        self.steps()
            .iter()
            .find(|step| step.op == Op::Embedding(op::Embedding))
    }

    /// The embedding of positions.
    pub(super) fn positions(self) -> Option<&'a Step> {
        let of_positions = |step: &&Step| step.inputs == [StageId::POSITIONS.into()];
        let mut embeddings = self.steps().iter();
        embeddings.find(|step| step.op == Op::Embedding(op::Embedding) && of_positions(step))
    }

    pub(super) fn norms(self) -> impl Iterator<Item = &'a Step> {
        let norm = |step: &&Step| matches!(step.op, Op::LayerNorm(_) | Op::RmsNorm(_));
        self.steps().iter().filter(norm)
    }

    /// The norms that are in a block.
    pub(super) fn block_norms(self) -> impl DoubleEndedIterator<Item = &'a Step> {
        let norms: Vec<&Step> = self.norms().collect();
        norms
            .into_iter()
            .filter(|step| step.stage.layer().is_some())
    }

    /// The norm of the embeddings.
    pub(super) fn embedding_norm(self) -> Option<&'a Step> {
        let embedding = &self.embedding()?.id;
        self.norms().find(|norm| norm.inputs.contains(embedding))
    }

    /// The norm before the head.
    pub(super) fn final_norm(self) -> Option<&'a Step> {
        let input = self.head()?.step.inputs.first()?;
        self.norms().find(|norm| norm.id == *input)
    }

    /// The layer that nothing reads.
    pub(super) fn head(self) -> Option<Layer<'a>> {
        let last = self.steps().last()?;
        self.layer(last)
    }

    /// Whether the head is the embedding.
    pub(super) fn is_tied(self) -> bool {
        let embedding = self.embedding().and_then(|step| step.params.first());
        embedding.is_some_and(|ours| self.head().is_some_and(|head| head.weight == ours))
    }

    /// The projections that the heads of queries are split from.
    pub(super) fn queries(self) -> impl Iterator<Item = Projection<'a>> {
        self.projections(HeadPart::Query)
    }

    /// Those that the heads of a part are split from.
    pub(super) fn projections(self, of: HeadPart) -> impl Iterator<Item = Projection<'a>> {
        self.steps().iter().filter_map(move |step| match step.op {
            Op::SplitHeads(op::SplitHeads {
                part,
                layout,
                heads,
                ..
            }) if part == of => {
                let layer = self.layer_giving(&step.inputs[0])?;
                Some(Projection {
                    layer,
                    layout,
                    heads,
                    head_dim: layer.outputs.checked_div(layout.parts() * heads)?,
                })
            }
            _ => None,
        })
    }

    /// The layers that attention ends with.
    pub(super) fn attention_outputs(self) -> impl Iterator<Item = Layer<'a>> {
        self.layers_after(|op| matches!(op, Op::Context(_)))
    }

    /// The layers that a feed-forward network ends with.
    pub(super) fn narrowing(self) -> impl Iterator<Item = Layer<'a>> {
        self.layers_after(|op| matches!(op, Op::Activation(_) | Op::Gate(_) | Op::Multiply(_)))
    }

    /// The layers whose result goes through an activation function.
    pub(super) fn widening(self) -> impl Iterator<Item = Layer<'a>> {
        self.steps().iter().filter_map(move |step| match step.op {
            Op::Activation(_) | Op::Gate(_) => self.layer_giving(&step.inputs[0]),
            _ => None,
        })
    }

    /// The layers whose results are multiplied, one of them after an activation function, in a step of
    /// its own or in the same: gate and up.
    pub(super) fn gated(self) -> impl Iterator<Item = (Layer<'a>, Layer<'a>)> {
        self.steps().iter().filter_map(move |step| {
            let [gate, up] = step.inputs.as_slice() else {
                return None;
            };
            let gate = match step.op {
                Op::Gate(_) => gate,
                Op::Multiply(_) => self.producer(gate)?.inputs.first()?,
                _ => return None,
            };
            Some((self.layer_giving(gate)?, self.layer_giving(up)?))
        })
    }

    /// The addition of a residual stream to the result of a branch, and what may be mistaken for the
    /// residual: its norm, which the branch starts from.
    pub(super) fn residuals(self) -> impl Iterator<Item = (&'a Step, &'a Step)> {
        self.steps().iter().filter_map(move |step| {
            let (Op::Add(_), [residual, _]) = (&step.op, step.inputs.as_slice()) else {
                return None;
            };
            let norm = self.norms().find(|norm| norm.inputs.contains(residual))?;
            Some((step, norm))
        })
    }

    fn producer(self, value: &StageId) -> Option<&'a Step> {
        self.steps().iter().find(|step| step.id == *value)
    }

    fn layers_after(self, is: fn(&Op) -> bool) -> impl Iterator<Item = Layer<'a>> {
        self.steps().iter().filter_map(move |step| {
            let layer = self.layer(step)?;
            let before = self.producer(step.inputs.first()?)?;
            is(&before.op).then_some(layer)
        })
    }

    /// The layer whose result a value is, its bias added.
    fn layer_giving(self, value: &StageId) -> Option<Layer<'a>> {
        let step = self.producer(value)?;
        match step.op {
            Op::AddBias(_) => self.layer(self.producer(&step.inputs[0])?),
            _ => self.layer(step),
        }
    }

    fn layer(self, step: &'a Step) -> Option<Layer<'a>> {
        let Op::Linear(_) = step.op else {
            return None;
        };
        let weight = step.params.first()?;
        let &[outputs, inputs] = weight.shape.as_slice() else {
            return None;
        };
        let adds =
            |later: &&Step| matches!(later.op, Op::AddBias(_)) && later.inputs.contains(&step.id);
        let later = || self.steps().iter().find(adds)?.params.first();
        Some(Layer {
            step,
            weight,
            bias: step.params.get(1).or_else(later),
            outputs,
            inputs,
        })
    }
}

impl Layer<'_> {
    /// The names of weight and bias.
    pub(super) fn params(&self) -> Vec<String> {
        let params = [Some(self.weight), self.bias];
        params
            .into_iter()
            .flatten()
            .map(|param| param.name.clone())
            .collect()
    }
}
