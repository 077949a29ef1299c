//! Softmax computed in the storage type.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{Op, Rounding};
use crate::plan::Step;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let softmax = matches!(step.op, Op::Softmax(_));
        if !softmax || !step.numerics.out.is_half() {
            continue;
        }
        let (theirs, finding) = match step.numerics.rounding {
            Rounding::Once => (
                Rounding::EachOperation,
                "the reference's softmax rounds after every operation, the model's is in fp32",
            ),
            Rounding::EachOperation => (
                Rounding::Once,
                "the reference's softmax is in fp32, the model's rounds after every operation",
            ),
        };
        let set = move |step: &mut Step| step.numerics.rounding = theirs;
        all.push(Rewrite::of_step(
            &step.id,
            finding,
            "with that precision",
            set,
        ));
    }
    Ok(all)
}
