//! A bias that is not the reference's: missing, left at its initial zeros, or another.

use super::bias::bias_of;
use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::fit::fit;
use crate::explain::rearrange::mapped;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::plan::{Param, StageId};

pub(super) struct BiasValues;

impl Rule for BiasValues {
    fn id(&self) -> &'static str {
        "bias-values"
    }

    fn what(&self) -> &'static str {
        "a bias is missing, left at its initial zeros, or not the reference's"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let Some(name) = bias_of(step) else {
                continue;
            };
            let bias = &context.subgraph.params[name];
            // A bias whose entries do not map to the columns of the result cannot be fitted.
            let later = context
                .steps()
                .iter()
                .skip_while(|other| other.id != step.id);
            if later
                .skip(1)
                .any(|later| !later.op.locality().is_by_column())
            {
                continue;
            }
            let zeros = bias.widened()?.as_slice::<f64>()?.iter().all(|x| *x == 0.0);
            let finding = if zeros {
                format!(
                    "{name} is all zeros where the reference has a bias: left out, or left at init"
                )
            } else {
                format!("{} is not the reference's", kind(name))
            };
            let fitted = name.to_owned();
            let rewrite = Rewrite::new(
                finding.replace(name, &kind(name)),
                "with a bias fitted to the reference",
                move |subgraph| fit(subgraph, &fitted),
            );
            all.push(rewrite.certain(Certainty::Fitted));
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("last norm's bias left at zeros", |modules| {
                zeros(modules.final_norm()?.params.get(1))
            }),
            Bug::new("qkv bias missing", |modules| {
                zeros(modules.queries().last()?.layer.bias)
            }),
            Bug::new("dense bias missing", |modules| {
                zeros(modules.attention_outputs().next()?.bias)
            }),
            Bug::new("dense_h_to_4h bias missing", |modules| {
                zeros(modules.widening().next()?.bias)
            }),
        ]
    }
}

fn zeros(bias: Option<&Param>) -> Option<Edits> {
    let edits = Edits::named_by("all zeros");
    Some(edits.weight(&bias?.name, |bias| mapped(bias, |_| 0.0)))
}

fn kind(name: &str) -> String {
    StageId::from(name).kind()
}
