//! Another activation function, or other rounding points of the same one: erf or tanh GELU, a fused kernel
//! or single operations.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::modules::Modules;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Op, Rounding};

pub(super) struct Activation;

impl Rule for Activation {
    fn id(&self) -> &'static str {
        "activation"
    }

    fn what(&self) -> &'static str {
        "the activation function is another, or has other rounding points: erf or tanh GELU, a fused kernel or single operations"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let Op::Activation(ours) = step.op else {
                continue;
            };
            for theirs in op::Activation::ALL {
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
                    let finding = if theirs == ours {
                        format!("the reference's {theirs} is {how}")
                    } else if rounding == step.numerics.rounding {
                        format!("the reference's activation is {theirs}, not {ours}")
                    } else {
                        format!("the reference's activation is {theirs} {how}, not {ours}")
                    };
                    let edit = move |step: &mut crate::plan::Step| {
                        step.op = Op::Activation(theirs);
                        step.numerics.rounding = rounding;
                    };
                    all.push(Rewrite::of_step(
                        &step.id,
                        finding,
                        format!("with {theirs} {how}"),
                        edit,
                    ));
                }
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("erf GELU", |modules| other(modules, op::Activation::Gelu)),
            Bug::new("quick GELU", |modules| {
                other(modules, op::Activation::QuickGelu)
            }),
            Bug::new("SiLU", |modules| other(modules, op::Activation::Silu)),
            Bug::of_rounding("fused GELU", |_| {
                let edits = Edits::named_by("rounded after every operation");
                Some(edits.steps(|step| {
                    if let Op::Activation(_) = step.op {
                        step.numerics.rounding = Rounding::Once;
                    }
                }))
            }),
        ]
    }
}

/// Another function in place of a model's.
fn other(modules: Modules<'_>, other: op::Activation) -> Option<Edits> {
    let ours = modules.steps().iter().find_map(|step| match step.op {
        Op::Activation(ours) => Some(ours),
        _ => None,
    })?;
    let edits = Edits::named_by(format!("{ours}, not {other}"));
    Some(edits.steps(move |step| {
        if let Op::Activation(activation) = &mut step.op {
            *activation = other;
        }
    }))
}
