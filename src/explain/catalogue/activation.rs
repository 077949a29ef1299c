//! Another activation function, or the same one rounded elsewhere: erf or tanh GELU, a fused kernel
//! or single operations.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{Activation, Op, Rounding};

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let Op::Activation(ours) = step.op else {
            continue;
        };
        for theirs in Activation::ALL {
            for rounding in [Rounding::Once, Rounding::EachOperation] {
                let same = (theirs, rounding) == (ours, step.numerics.rounding);
                // Nothing lies between operations that are not rounded.
                let fp32 = !step.numerics.out.is_half() && rounding != step.numerics.rounding;
                if same || fp32 {
                    continue;
                }
                let how = match rounding {
                    Rounding::Once => "rounded once (a fused kernel)",
                    Rounding::EachOperation => "rounded after every operation",
                };
                let finding = match theirs == ours {
                    true => format!("the reference's {theirs} is {how}"),
                    false if rounding == step.numerics.rounding => {
                        format!("the reference's activation is {theirs}, not {ours}")
                    }
                    false => format!("the reference's activation is {theirs} {how}, not {ours}"),
                };
                let edit = move |step: &mut crate::plan::Step| {
                    step.op = Op::Activation(theirs);
                    step.numerics.rounding = rounding;
                };
                all.push(Rewrite::of_step(
                    &step.id,
                    finding,
                    format!("with {theirs}"),
                    edit,
                ));
            }
        }
    }
    Ok(all)
}
