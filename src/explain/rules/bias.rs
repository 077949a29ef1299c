//! The bias: not added by the reference, added twice, or rounded on its own.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rearrange::mapped;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::explain::steps::split;
use crate::op::{self, Op};
use crate::plan::Step;
use crate::tensor::Tensor;

pub(super) struct Bias;

impl Rule for Bias {
    fn id(&self) -> &'static str {
        "bias"
    }

    fn what(&self) -> &'static str {
        "a bias is not added, added twice, has the wrong sign, or is rounded on its own"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let Some(name) = bias_of(step) else {
                continue;
            };
            let scaled = |factor: f64| move |bias: &Tensor| mapped(bias, |x| factor * x);
            for (factor, finding, remedy) in [
                (
                    0.0,
                    "the reference does not add the bias",
                    "without the bias",
                ),
                (
                    0.5,
                    "the bias is twice the reference's",
                    "with half the bias",
                ),
                (
                    2.0,
                    "the reference adds the bias twice",
                    "with twice the bias",
                ),
                (
                    -1.0,
                    "the bias has the wrong sign",
                    "with the sign of the bias changed",
                ),
            ] {
                all.push(Rewrite::of_param(name, finding, remedy, scaled(factor)));
            }
            if matches!(step.op, Op::Linear(op::Linear { bias: true, .. })) {
                let finding = "the reference adds the bias to the rounded product";
                let id = step.id.clone();
                let rewrite = Rewrite::new(
                    finding,
                    "with the bias added after the product is rounded",
                    move |subgraph| {
                        if let Some(index) = subgraph.steps.iter().position(|step| step.id == id) {
                            let steps = split(&subgraph.steps[index]);
                            subgraph.steps.splice(index..=index, steps);
                        }
                        Ok(())
                    },
                );
                all.push(rewrite);
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![Bug::new("dense_4h_to_h bias doubled", |modules| {
            let bias = &modules.narrowing().last()?.bias?.name;
            let edits = Edits::named_by("the bias is twice the reference's");
            Some(edits.weight(bias, |bias| mapped(bias, |x| 2.0 * x)))
        })]
    }
}

/// Biases that look as if they had never been written.
pub(in crate::explain) fn zeros(context: &Context<'_>) -> Result<Vec<String>> {
    let names = context.steps().iter().filter_map(bias_of);
    let mut all = Vec::new();
    for name in names {
        let bias = context.subgraph.params[name].widened()?;
        if bias.as_slice::<f64>()?.iter().all(|x| *x == 0.0) {
            all.push(format!("{name} is all zeros"));
        }
    }
    Ok(all)
}

/// The bias that a step adds.
pub(super) fn bias_of(step: &Step) -> Option<&str> {
    let name = match step.op {
        Op::AddBias(op::AddBias) => step.params.first(),
        Op::Linear(op::Linear { bias: true, .. }) | Op::LayerNorm(_) | Op::RmsNorm(_) => {
            step.params.get(1)
        }
        _ => None,
    };
    name.map(|param| param.name.as_str())
}
