//! RMS norm or layer norm.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Op, Rounding};
use crate::plan::Step;

pub(super) struct NormKind;

impl Rule for NormKind {
    fn id(&self) -> &'static str {
        "norm-kind"
    }

    fn what(&self) -> &'static str {
        "a norm is an RMS norm in place of a layer norm, or the other way round"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let (theirs, finding, remedy) = match step.op {
                Op::LayerNorm(op::LayerNorm { eps }) => (
                    Op::RmsNorm(op::RmsNorm { eps }),
                    "the reference's norm is an RMS norm: it does not subtract the mean",
                    "with an RMS norm",
                ),
                Op::RmsNorm(op::RmsNorm { eps }) if step.params.len() == 2 => (
                    Op::LayerNorm(op::LayerNorm { eps }),
                    "the reference's norm is a layer norm: it subtracts the mean",
                    "with a layer norm",
                ),
                _ => continue,
            };
            let set = move |step: &mut Step| {
                step.op = theirs.clone();
                // Layer norms know no other.
                step.numerics.rounding = Rounding::Once;
            };
            all.push(Rewrite::of_step(&step.id, finding, remedy, set));
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![Bug::new("RMS norm instead of layer norm", |modules| {
            let last = modules.block_norms().next_back()?.stage.layer();
            let norm = modules
                .block_norms()
                .find(|norm| norm.stage.layer() == last)?;
            let edits = Edits::named_by("the reference's norm is a layer norm");
            Some(edits.step(&norm.id, |step| {
                if let Op::LayerNorm(op::LayerNorm { eps }) = step.op {
                    step.op = Op::RmsNorm(op::RmsNorm { eps });
                }
            }))
        })]
    }
}
