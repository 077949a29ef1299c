//! A norm's weight: stored less one, left at init, or another.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::fit::{fit, fit_line};
use crate::explain::rearrange::mapped;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::op::Op;
use crate::plan::StageId;
use crate::tensor::Tensor;

pub(super) struct NormWeight;

impl Rule for NormWeight {
    fn id(&self) -> &'static str {
        "norm-weight"
    }

    fn what(&self) -> &'static str {
        "a norm's weight is stored less one, left at init, or not the reference's"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let (Op::LayerNorm(_) | Op::RmsNorm(_)) = step.op else {
                continue;
            };
            let name = &step.params[0].name;
            for (shift, finding, remedy) in [
                (
                    1.0,
                    "the norm's weight is stored as gamma − 1",
                    "with 1 added to the weight",
                ),
                (
                    -1.0,
                    "the norm's weight is gamma + 1: the reference adds the 1 itself",
                    "with 1 subtracted from the weight",
                ),
            ] {
                let edit = move |weight: &Tensor| mapped(weight, |x| x + shift);
                all.push(Rewrite::of_param(name, finding, remedy, edit));
            }
            let weight = context.subgraph.params[name].widened()?;
            let ones = weight.as_slice::<f64>()?.iter().all(|x| *x == 1.0);
            let finding = if ones {
                "the norm's weight is all ones where the reference's is not: left at init".into()
            } else {
                format!(
                    "{} is not the reference's",
                    StageId::from(name.as_str()).kind()
                )
            };
            // A line through fewer rows leaves nothing to tell it by.
            let rows = context.subgraph.reference.len() / weight.len().max(1);
            if let ([_, bias], [_], 4..) = (step.params.as_slice(), context.steps(), rows) {
                let zeros = context.subgraph.params[&bias.name].widened()?;
                let zeros = zeros.as_slice::<f64>()?.iter().all(|x| *x == 0.0);
                let finding = if ones && zeros {
                    "the norm is all ones and zeros where the reference's is not: left at init"
                } else {
                    "weight and bias of the norm are not the reference's"
                };
                let (weight, bias) = (name.clone(), bias.name.clone());
                let remedy = "with weight and bias fitted to the reference";
                let rewrite = Rewrite::new(finding, remedy, move |subgraph| {
                    fit_line(subgraph, &weight, &bias)
                });
                all.push(rewrite.certain(Certainty::FittedTwice));
            }
            let fitted = name.clone();
            let remedy = "with a weight fitted to the reference";
            let rewrite = Rewrite::new(finding, remedy, move |subgraph| fit(subgraph, &fitted));
            all.push(rewrite.certain(Certainty::Fitted));
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("norm weight stored less one", |modules| {
                let weight = modules.block_norms().next()?.params.first()?;
                let edits = Edits::named_by("stored as gamma − 1");
                Some(edits.weight(&weight.name, |weight| mapped(weight, |x| x - 1.0)))
            }),
            Bug::new("last norm left at init", |modules| {
                let [weight, bias] = modules.final_norm()?.params.as_slice() else {
                    return None;
                };
                let edits = Edits::named_by("all ones and zeros");
                let edits = edits.weight(&weight.name, |weight| mapped(weight, |_| 1.0));
                Some(edits.weight(&bias.name, |bias| mapped(bias, |_| 0.0)))
            }),
            Bug::new("last norm's weight left at ones", |modules| {
                let weight = modules.final_norm()?.params.first()?;
                let edits = Edits::named_by("left at init");
                Some(edits.weight(&weight.name, |weight| mapped(weight, |_| 1.0)))
            }),
        ]
    }
}
