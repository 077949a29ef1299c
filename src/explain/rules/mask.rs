//! The mask: none, or off by a position.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Op};
use crate::plan::Step;

pub(super) struct Mask;

impl Rule for Mask {
    fn id(&self) -> &'static str {
        "mask"
    }

    fn what(&self) -> &'static str {
        "the attention mask is missing, or off by a position"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let Op::Softmax(op::Softmax { mask: ours, .. }) = step.op else {
                continue;
            };
            for (theirs, what, remedy) in [
                (
                    op::Mask::Causal,
                    "the reference's mask is causal",
                    "with a causal mask",
                ),
                (
                    op::Mask::Full,
                    "the reference masks nothing",
                    "without a mask",
                ),
                (
                    op::Mask::Shifted(1),
                    "the reference lets a query see one key more",
                    "with a causal mask that shows one key more",
                ),
                (
                    op::Mask::Shifted(-1),
                    "the reference lets a query see one key less",
                    "with a causal mask that shows one key less",
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
                all.push(Rewrite::of_step(&step.id, what, remedy, set));
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("no mask", |_| Some(unmasked(op::Mask::Full))),
            Bug::new("mask off by one", |_| Some(unmasked(op::Mask::Shifted(1)))),
        ]
    }
}

/// Another mask where a causal one should be.
fn unmasked(other: op::Mask) -> Edits {
    Edits::named_by("mask is causal").steps(move |step| {
        if let Op::Softmax(op::Softmax { mask, .. }) = &mut step.op
            && *mask == op::Mask::Causal
        {
            *mask = other;
        }
    })
}
