//! A norm's weight: stored less one, left at init, or another.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::fit::{fit, fit_line};
use crate::explain::rearrange::mapped;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::op::Op;
use crate::plan::StageId;
use crate::tensor::Tensor;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let (Op::LayerNorm(_) | Op::RmsNorm(_)) = step.op else {
            continue;
        };
        let name = &step.params[0].name;
        for (shift, finding) in [
            (1.0, "the norm's weight is stored as gamma − 1"),
            (
                -1.0,
                "the norm's weight is gamma + 1: the reference adds the 1 itself",
            ),
        ] {
            let edit = move |weight: &Tensor| mapped(weight, |x| x + shift);
            all.push(Rewrite::of_param(
                name,
                finding,
                "with the 1 put right",
                edit,
            ));
        }
        let weight = context.subgraph.params[name].widened()?;
        let ones = weight.as_slice::<f64>()?.iter().all(|x| *x == 1.0);
        let finding = match ones {
            true => {
                "the norm's weight is all ones where the reference's is not: left at init".into()
            }
            false => format!(
                "{} is not the reference's",
                StageId::from(name.as_str()).kind()
            ),
        };
        if let ([_, bias], [_]) = (step.params.as_slice(), context.steps()) {
            let zeros = context.subgraph.params[&bias.name].widened()?;
            let zeros = zeros.as_slice::<f64>()?.iter().all(|x| *x == 0.0);
            let finding = match ones && zeros {
                true => "the norm is all ones and zeros where the reference's is not: left at init",
                false => "weight and bias of the norm are not the reference's",
            };
            let (weight, bias) = (name.clone(), bias.name.clone());
            let remedy = "with both fitted to the reference";
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
