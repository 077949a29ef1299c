//! The head: untied where it should be tied, or stale.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rearrange::mapped;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Op};

/// What the weight of a head of its own is called.
pub(super) const UNTIED: &str = "lm_head.weight";

pub(super) struct Head;

impl Rule for Head {
    fn id(&self) -> &'static str {
        "head"
    }

    fn what(&self) -> &'static str {
        "the head is untied where it should be tied, or stale"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
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
            for other in [embedding.clone(), UNTIED.to_owned()] {
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

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("head tied although it has weights of its own", |modules| {
                let (head, embedding) = (modules.head()?, modules.embedding()?.params.first()?);
                let edits = Edits::named_by(format!("head is {}", head.weight.name));
                let embedding = embedding.name.clone();
                (!modules.is_tied()).then(|| {
                    edits.step(&head.step.id, move |step| {
                        step.params[0].name = embedding.clone();
                    })
                })
            }),
            Bug::new("stale head", |modules| {
                let (head, embedding) = (modules.head()?, modules.embedding()?.params.first()?);
                let edits = Edits::named_by(format!("head is {}", embedding.name));
                modules.is_tied().then(|| {
                    let edits = edits.weight_from(UNTIED, &embedding.name, |weight| {
                        let mut noise = noise();
                        mapped(weight, |x| x * (1.0 + 0.05 * noise()))
                    });
                    edits.step(&head.step.id, |step| step.params[0].name = UNTIED.into())
                })
            }),
        ]
    }
}

/// Noise in [−0.5, 0.5), the same in every run.
fn noise() -> impl FnMut() -> f64 {
    let mut state = 1_u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / f64::from(u32::MAX) - 0.5
    }
}
