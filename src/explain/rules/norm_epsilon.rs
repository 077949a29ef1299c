//! The epsilon of a norm.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Op};
use crate::plan::Step;

/// Those in use.
const EPSILONS: [f64; 9] = [1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 1e-4, 1e-3, 1e-2, 0.0];

pub(super) struct NormEpsilon;

impl Rule for NormEpsilon {
    fn id(&self) -> &'static str {
        "norm-epsilon"
    }

    fn what(&self) -> &'static str {
        "a norm has another epsilon"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let (Op::LayerNorm(op::LayerNorm { eps: ours })
            | Op::RmsNorm(op::RmsNorm { eps: ours })) = step.op
            else {
                continue;
            };
            for theirs in EPSILONS.into_iter().filter(|eps| *eps != ours) {
                let set = move |step: &mut Step| set_epsilon(step, theirs);
                let finding =
                    format!("the reference's epsilon is {theirs:e}, the model's {ours:e}");
                all.push(Rewrite::of_step(
                    &step.id,
                    finding,
                    format!("with epsilon {theirs:e}"),
                    set,
                ));
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("epsilon of the embedding norm 1e-3", |modules| {
                with_epsilon(1e-3, vec![modules.embedding_norm()?])
            }),
            Bug::new("epsilon of every norm but the first 1e-6", |modules| {
                with_epsilon(1e-6, modules.norms().skip(1).collect())
            }),
            Bug::new("epsilon of the last norm 1e-12", |modules| {
                with_epsilon(1e-12, vec![modules.final_norm()?])
            }),
        ]
    }
}

fn with_epsilon(epsilon: f64, norms: Vec<&Step>) -> Option<Edits> {
    let (Op::LayerNorm(op::LayerNorm { eps }) | Op::RmsNorm(op::RmsNorm { eps })) =
        norms.first()?.op
    else {
        return None;
    };
    let edits = Edits::named_by(format!("epsilon is {eps:e}, the model's {epsilon:e}"));
    Some(norms.iter().fold(edits, |edits, norm| {
        edits.step(&norm.id, move |step| set_epsilon(step, epsilon))
    }))
}

fn set_epsilon(step: &mut Step, epsilon: f64) {
    if let Op::LayerNorm(op::LayerNorm { eps }) | Op::RmsNorm(op::RmsNorm { eps }) = &mut step.op {
        *eps = epsilon;
    }
}
