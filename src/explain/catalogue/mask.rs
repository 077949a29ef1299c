//! The mask: none, or off by a position.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{self, Mask, Op};
use crate::plan::Step;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let Op::Softmax(op::Softmax { mask: ours, .. }) = step.op else {
            continue;
        };
        for (theirs, what) in [
            (Mask::Causal, "the reference's mask is causal"),
            (Mask::Full, "the reference masks nothing"),
            (
                Mask::Shifted(1),
                "the reference lets a query see one key more",
            ),
            (
                Mask::Shifted(-1),
                "the reference lets a query see one key less",
            ),
        ] {
            if theirs == ours {
                continue;
            }
            let set = move |step: &mut Step| {
                if let Op::Softmax(op::Softmax { mask, .. }) = &mut step.op {
                    *mask = theirs;
                }
            };
            all.push(Rewrite::of_step(&step.id, what, "with that mask", set));
        }
    }
    Ok(all)
}
