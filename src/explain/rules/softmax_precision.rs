//! Softmax computed in the storage type.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{Op, Rounding};
use crate::plan::Step;

pub(super) struct SoftmaxPrecision;

impl Rule for SoftmaxPrecision {
    fn id(&self) -> &'static str {
        "softmax-precision"
    }

    fn what(&self) -> &'static str {
        "softmax is computed in the storage type"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let softmax = matches!(step.op, Op::Softmax(_));
            if !softmax || !step.numerics.out.is_half() {
                continue;
            }
            let (theirs, finding, remedy) = match step.numerics.rounding {
                Rounding::Once => (
                    Rounding::EachOperation,
                    "the reference's softmax rounds after every operation, the model's is in fp32",
                    "with a softmax that rounds after every operation",
                ),
                Rounding::EachOperation => (
                    Rounding::Once,
                    "the reference's softmax is in fp32, the model's rounds after every operation",
                    "with softmax in fp32",
                ),
            };
            let set = move |step: &mut Step| step.numerics.rounding = theirs;
            all.push(Rewrite::of_step(&step.id, finding, remedy, set));
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![Bug::of_rounding("softmax in half precision", |_| {
            Some(Edits::named_by("softmax is in fp32").steps(|step| {
                if let Op::Softmax(_) = step.op {
                    step.numerics.rounding = Rounding::EachOperation;
                }
            }))
        })]
    }
}
