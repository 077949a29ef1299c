//! RMS norm or layer norm.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{self, Op};
use crate::plan::Step;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let (theirs, finding) = match step.op {
            Op::LayerNorm(op::LayerNorm { eps }) => (
                Op::RmsNorm(op::RmsNorm { eps }),
                "the reference's norm is an RMS norm: it does not subtract the mean",
            ),
            Op::RmsNorm(op::RmsNorm { eps }) if step.params.len() == 2 => (
                Op::LayerNorm(op::LayerNorm { eps }),
                "the reference's norm is a layer norm: it subtracts the mean",
            ),
            _ => continue,
        };
        let set = move |step: &mut Step| step.op = theirs.clone();
        all.push(Rewrite::of_step(&step.id, finding, "with that norm", set));
    }
    Ok(all)
}
