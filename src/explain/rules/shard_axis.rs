//! Tensor-parallel shards joined along the wrong axis.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits, part};
use crate::explain::context::Context;
use crate::explain::modules::Layer;
use crate::explain::rearrange::swapped;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::Op;
use crate::tensor::Tensor;

pub(super) struct ShardAxis;

impl Rule for ShardAxis {
    fn id(&self) -> &'static str {
        "shard-axis"
    }

    fn what(&self) -> &'static str {
        "tensor-parallel shards are joined along the wrong axis"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let Op::Linear(_) = step.op else {
                continue;
            };
            let (name, shape) = (&step.params[0].name, &step.params[0].shape);
            let &[m, k] = shape.as_slice() else {
                continue;
            };
            for ranks in [2, 4, 8] {
                if k % ranks == 0 {
                    let finding = format!(
                        "shards of {ranks} ranks are joined along the outputs, they belong side by side along the inputs"
                    );
                    let edit = move |weight: &Tensor| swapped(weight, [ranks, m, k / ranks]);
                    all.push(Rewrite::of_param(
                        name,
                        finding,
                        "with the shards joined along the inputs",
                        edit,
                    ));
                }
                if m % ranks == 0 {
                    let finding = format!(
                        "shards of {ranks} ranks are joined along the inputs, they belong below each other along the outputs"
                    );
                    let edit = move |weight: &Tensor| swapped(weight, [m / ranks, ranks, k]);
                    all.push(Rewrite::of_param(
                        name,
                        finding,
                        "with the shards joined along the outputs",
                        edit,
                    ));
                }
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new(
                "dense shards of 4 ranks joined along the outputs",
                |modules| along_outputs(modules.attention_outputs().next()?),
            ),
            Bug::new(
                "dense_4h_to_h shards of 4 ranks joined along the outputs",
                |modules| along_outputs(modules.narrowing().next()?),
            ),
        ]
    }
}

fn along_outputs(layer: Layer<'_>) -> Option<Edits> {
    let extents = [layer.outputs, 4, part(layer.inputs, 4)?];
    let edits = Edits::named_by("4 ranks are joined along the outputs");
    Some(edits.weight(&layer.weight.name, move |weight| swapped(weight, extents)))
}
