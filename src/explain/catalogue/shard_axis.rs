//! Tensor-parallel shards joined along the wrong axis.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rearrange::swapped;
use crate::explain::rewrite::Rewrite;
use crate::op::Op;
use crate::tensor::Tensor;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
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
                    "joined along the inputs",
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
                    "joined along the outputs",
                    edit,
                ));
            }
        }
    }
    Ok(all)
}
