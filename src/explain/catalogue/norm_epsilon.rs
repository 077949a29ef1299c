//! The epsilon of a norm.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{self, Op};
use crate::plan::Step;

/// Those in use.
const EPSILONS: [f64; 9] = [1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 1e-4, 1e-3, 1e-2, 0.0];

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let (Op::LayerNorm(op::LayerNorm { eps: ours }) | Op::RmsNorm(op::RmsNorm { eps: ours })) =
            step.op
        else {
            continue;
        };
        for theirs in EPSILONS.into_iter().filter(|eps| *eps != ours) {
            let set = move |step: &mut Step| {
                if let Op::LayerNorm(op::LayerNorm { eps }) | Op::RmsNorm(op::RmsNorm { eps }) =
                    &mut step.op
                {
                    *eps = theirs;
                }
            };
            let finding = format!("the reference's epsilon is {theirs:e}, the model's {ours:e}");
            all.push(Rewrite::of_step(
                &step.id,
                finding,
                format!("with {theirs:e}"),
                set,
            ));
        }
    }
    Ok(all)
}
