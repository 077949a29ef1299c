//! A weight that is stored transposed.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::modules::Layer;
use crate::explain::rearrange::swapped;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::Op;
use crate::tensor::Tensor;

pub(super) struct Transposed;

impl Rule for Transposed {
    fn id(&self) -> &'static str {
        "transposed"
    }

    fn what(&self) -> &'static str {
        "a weight is stored transposed"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let Op::Linear(_) = step.op else {
                continue;
            };
            let &[m, k] = step.params[0].shape.as_slice() else {
                continue;
            };
            // The bytes are those of [in, out] under the shape [out, in].
            let edit = move |weight: &Tensor| swapped(weight, [k, m, 1]);
            let finding = "weight is stored [in, out], the model expects [out, in]";
            all.push(Rewrite::of_param(
                &step.params[0].name,
                finding,
                "with the weight transposed",
                edit,
            ));
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("dense transposed", |modules| {
                transposed(modules.attention_outputs().last()?)
            }),
            Bug::new("dense_h_to_4h stored [in, out]", |modules| {
                transposed(modules.widening().next()?)
            }),
        ]
    }
}

fn transposed(layer: Layer<'_>) -> Option<Edits> {
    let extents = [layer.outputs, layer.inputs, 1];
    let edits = Edits::named_by("stored [in, out]");
    Some(edits.weight(&layer.weight.name, move |weight| swapped(weight, extents)))
}
