//! Row-parallel products: sums of rounded parts over another number of ranks.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{self, Op};
use crate::plan::Step;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let Op::Linear(op::Linear { partials: ours, .. }) = step.op else {
            continue;
        };
        let k = step.params[0].shape.get(1).copied().unwrap_or(1);
        for theirs in [1, 2, 4, 8]
            .into_iter()
            .filter(|n| *n != ours && k % n == 0)
        {
            let set = move |step: &mut Step| {
                if let Op::Linear(op::Linear { partials, .. }) = &mut step.op {
                    *partials = theirs;
                }
            };
            let finding = match theirs {
                1 => {
                    format!("the reference computes one sum, the model rounds {ours} partial sums")
                }
                _ => format!("the reference rounds partial sums of {theirs} ranks"),
            };
            let remedy = format!("with {theirs} partial sums");
            all.push(Rewrite::of_step(&step.id, finding, remedy, set));
        }
    }
    Ok(all)
}
