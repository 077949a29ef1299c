//! The head: untied where it should be tied, or stale.

use crate::error::Result;
use crate::explain::rewrite::Rewrite;
use crate::explain::subject::Subject;
use crate::plan::Op;

pub(super) fn rewrites<'a>(subject: &Subject<'a>) -> Result<Vec<Rewrite<'a>>> {
    let subject = *subject;
    let mut all = Vec::new();
    for step in subject.steps() {
        let Op::Linear { .. } = step.op else {
            continue;
        };
        let ours = &step.params[0];
        let embedding = subject
            .plan
            .steps()
            .iter()
            .find(|step| step.op == Op::Embedding);
        let Some(embedding) = embedding.map(|step| &step.params[0].name) else {
            continue;
        };
        for other in [embedding.clone(), "lm_head.weight".to_owned()] {
            let stored = subject.weights.stored(&other);
            let fits = stored.is_some_and(|stored| stored.shape == ours.shape);
            if other == ours.name || !fits {
                continue;
            }
            let finding = format!("the reference's head is {other}, not {}", ours.name);
            let remedy = format!("with {other}");
            let edit = move |_: &_| subject.weights.load(&other);
            all.push(Rewrite::of_param(&ours.name, finding, remedy, edit));
        }
    }
    Ok(all)
}
