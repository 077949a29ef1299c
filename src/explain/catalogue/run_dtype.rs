//! The type that the reference ran in.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rearrange::cast;
use crate::explain::rewrite::Rewrite;
use crate::tensor::DType;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let ours = context.subgraph.reference.dtype();
    let mut all = Vec::new();
    for dtype in [DType::Bf16, DType::F16] {
        // Values that do not fit the type were not computed in it.
        if ours != DType::F32 || context.subgraph.reference.narrowed_exactly(dtype).is_err() {
            continue;
        }
        let finding = format!("the reference ran in {dtype}, the model is run in {ours}");
        let rewrite = Rewrite::new(finding, format!("run in {dtype}"), move |subgraph| {
            for param in subgraph.params.values_mut() {
                *param = cast(param, dtype)?;
            }
            for value in subgraph
                .given
                .values_mut()
                .filter(|value| value.dtype() == ours)
            {
                *value = cast(value, dtype)?;
            }
            for step in &mut subgraph.steps {
                step.numerics.out = dtype;
            }
            Ok(())
        });
        all.push(rewrite);
    }
    Ok(all)
}
