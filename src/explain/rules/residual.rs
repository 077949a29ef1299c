//! The residual: taken after the norm instead of before it (or the other way round), or left out.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Op};
use crate::plan::{StageId, Step};

pub(super) struct Residual;

impl Rule for Residual {
    fn id(&self) -> &'static str {
        "residual"
    }

    fn what(&self) -> &'static str {
        "the residual is taken after the norm in place of before it, or the other way round, or left out"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let context = *context;
        let mut all = Vec::new();
        for step in context.steps() {
            let (Op::Add(op::Add), [residual, branch]) = (&step.op, step.inputs.as_slice()) else {
                continue;
            };
            for (other, finding) in candidates(&context, residual) {
                let (id, from) = (step.id.clone(), residual.clone());
                let remedy = format!("with {} as the residual", other.kind());
                let rewrite = Rewrite::new(finding, remedy, move |subgraph| {
                    if let Some(value) = (context.recorded)(&other)? {
                        let value = subgraph.cut(&value)?;
                        subgraph.given.insert(other.clone(), value);
                        replace(&mut subgraph.steps, &id, &from, &other);
                    }
                    Ok(())
                });
                all.push(rewrite);
            }
            for (kept, finding) in [
                (branch, "the reference does not add the residual"),
                (residual, "the reference adds nothing to the residual"),
            ] {
                let kept = kept.clone();
                let set = move |step: &mut Step| {
                    step.op = Op::Scale(op::Scale { factor: 1.0 });
                    step.inputs = vec![kept.clone()];
                };
                all.push(Rewrite::of_step(
                    &step.id,
                    finding,
                    "without the addition",
                    set,
                ));
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![Bug::new("residual taken after the norm", |modules| {
            let edits = Edits::named_by("residual before the norm");
            Some(modules.residuals().fold(edits, |edits, (add, norm)| {
                let norm = norm.id.clone();
                edits.step(&add.id, move |step| step.inputs[0] = norm.clone())
            }))
        })]
    }
}

/// Values that may be meant: what the norm makes of the residual, and what the residual is a norm
/// of.
fn candidates(context: &Context<'_>, residual: &StageId) -> Vec<(StageId, &'static str)> {
    let mut all = Vec::new();
    for step in context.plan.steps() {
        let norm = matches!(step.op, Op::LayerNorm(_) | Op::RmsNorm(_));
        if norm && step.inputs.contains(residual) {
            all.push((
                step.id.clone(),
                "the reference takes the residual after the norm",
            ));
        }
        if norm && step.id == *residual {
            let before = step.inputs[0].clone();
            all.push((before, "the reference takes the residual before the norm"));
        }
    }
    all
}

fn replace(steps: &mut [Step], id: &StageId, from: &StageId, to: &StageId) {
    for step in steps.iter_mut().filter(|step| step.id == *id) {
        for input in step.inputs.iter_mut().filter(|input| *input == from) {
            *input = to.clone();
        }
    }
}
