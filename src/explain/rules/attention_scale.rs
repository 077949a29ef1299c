//! The factor of the scores: the root of the head dimension, left out or applied twice, or the
//! layer's number (query-key layer scaling).

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Op};
use crate::plan::Step;

pub(super) struct AttentionScale;

impl Rule for AttentionScale {
    fn id(&self) -> &'static str {
        "attention-scale"
    }

    fn what(&self) -> &'static str {
        "attention scores have another factor: the root of the head dimension left out or applied twice, or the layer's number (query-key layer scaling)"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        let layer = context.layer().unwrap_or(0) as f32;
        let head_dim = context.attention().map_or(1, |queries| queries.head_dim);
        let head_dim = head_dim.max(1) as f32;
        for step in context.steps() {
            let factors = [
                (head_dim.sqrt(), "times the root of the head dimension"),
                (1.0 / head_dim.sqrt(), "over the root of the head dimension"),
                (head_dim, "times the head dimension"),
                (layer, "times the layer's number"),
                (1.0 / layer, "over the layer's number"),
                (layer + 1.0, "times the layer's number from 1"),
                (1.0 / (layer + 1.0), "over the layer's number from 1"),
            ];
            for (factor, what) in factors {
                if !factor.is_finite() || factor == 0.0 || factor == 1.0 {
                    continue;
                }
                match step.op {
                    Op::AttentionScores(_) => {
                        for (alibi_too, name) in [(false, "products"), (true, "scores")] {
                            let finding = format!("the reference's {name} are {what}");
                            let remedy = format!("with {name} {what}");
                            let set = move |step: &mut Step| scale(step, factor, alibi_too);
                            all.push(Rewrite::of_step(&step.id, finding, remedy, set));
                        }
                    }
                    Op::Softmax(_) => {
                        let finding = format!("the reference's softmax is of scores {what}");
                        let remedy = format!("with scores {what}");
                        let set = move |step: &mut Step| scale(step, factor, true);
                        all.push(Rewrite::of_step(&step.id, finding, remedy, set));
                    }
                    _ => {}
                }
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("attention scores not scaled", |modules| {
                let root = (modules.queries().next()?.head_dim as f32).sqrt();
                let words = "products are over the root of the head dimension";
                Some(with_products(words, move |scale| *scale *= root))
            }),
            Bug::new("attention scores scaled twice", |modules| {
                let root = (modules.queries().next()?.head_dim as f32).sqrt();
                let words = "products are times the root of the head dimension";
                Some(with_products(words, move |scale| *scale /= root))
            }),
            Bug::new("scores divided by the layer's number from 1", |modules| {
                let scores = |step: &&Step| matches!(step.op, Op::AttentionScores(_));
                let last = modules.steps().iter().rfind(scores)?;
                let number = last.stage.layer()? as f32 + 1.0;
                let edits = Edits::named_by("times the layer's number from 1");
                Some(edits.step(&last.id, move |step| scale(step, 1.0 / number, true)))
            }),
        ]
    }
}

/// Another factor of all products of queries and keys.
fn with_products(words: &str, edit: impl Fn(&mut f32) + Send + Sync + 'static) -> Edits {
    Edits::named_by(words).steps(move |step| {
        if let Op::AttentionScores(op::AttentionScores { product_scale, .. }) = &mut step.op {
            edit(product_scale);
        }
    })
}

fn scale(step: &mut Step, factor: f32, alibi_too: bool) {
    match &mut step.op {
        Op::AttentionScores(scores) => {
            scores.product_scale *= factor;
            if let Some(alibi) = scores.alibi.as_mut().filter(|_| alibi_too) {
                alibi.scale *= factor;
            }
        }
        Op::Softmax(op::Softmax { scale, .. }) => *scale *= factor,
        _ => {}
    }
}
