//! A weight that is stored transposed.

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
        let &[m, k] = step.params[0].shape.as_slice() else {
            continue;
        };
        // The bytes are those of [in, out] under the shape [out, in].
        let edit = move |weight: &Tensor| swapped(weight, [k, m, 1]);
        let finding = "weight is stored [in, out], the model expects [out, in]";
        all.push(Rewrite::of_param(
            &step.params[0].name,
            finding,
            "transposed",
            edit,
        ));
    }
    Ok(all)
}
