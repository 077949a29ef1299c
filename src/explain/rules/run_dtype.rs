//! The type that the reference ran in.

use crate::error::Result;
use crate::explain::bug::Bug;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::tensor::DType;

pub(super) struct RunDtype;

impl Rule for RunDtype {
    fn id(&self) -> &'static str {
        "run-dtype"
    }

    fn what(&self) -> &'static str {
        "the reference ran in another type than the model"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let ours = context.subgraph.reference.dtype();
        let mut all = Vec::new();
        for dtype in [DType::Bf16, DType::F16] {
            // Values that do not fit the type were not computed in it.
            if ours != DType::F32 || context.subgraph.reference.narrowed_exactly(dtype).is_err() {
                continue;
            }
            let finding = format!("the reference ran in {dtype}, the model is run in {ours}");
            let rewrite = Rewrite::new(
                finding,
                format!("with the model run in {dtype}"),
                move |subgraph| {
                    for param in subgraph.params.values_mut() {
                        *param = param.cast(dtype)?;
                    }
                    for value in subgraph
                        .given
                        .values_mut()
                        .filter(|value| value.dtype() == ours)
                    {
                        *value = value.cast(dtype)?;
                    }
                    for step in &mut subgraph.steps {
                        step.numerics.out = dtype;
                    }
                    Ok(())
                },
            );
            all.push(rewrite);
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        // A model's type is not a matter of its steps and weights.
        Vec::new()
    }
}
