//! The head: untied where it should be tied, or stale.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{self, Op};

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let context = *context;
    let mut all = Vec::new();
    for step in context.steps() {
        let Op::Linear(_) = step.op else {
            continue;
        };
        let ours = &step.params[0];
        let embedding = context
            .plan
            .steps()
            .iter()
            .find(|step| step.op == Op::Embedding(op::Embedding));
        let Some(embedding) = embedding.map(|step| &step.params[0].name) else {
            continue;
        };
        for other in [embedding.clone(), "lm_head.weight".to_owned()] {
            let stored = context.weights.stored(&other);
            let fits = stored.is_some_and(|stored| stored.shape == ours.shape);
            if other == ours.name || !fits {
                continue;
            }
            let finding = format!("the reference's head is {other}, not {}", ours.name);
            let remedy = format!("with {other}");
            let edit = move |_: &_| context.weights.load(&other);
            all.push(Rewrite::of_param(&ours.name, finding, remedy, edit));
        }
    }
    Ok(all)
}
