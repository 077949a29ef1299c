//! Gated layers: the halves swapped, another activation, or the shards of ranks, each with its gate
//! and its up part, concatenated as they are and cut in the middle.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits, part};
use crate::explain::context::Context;
use crate::explain::modules::Modules;
use crate::explain::rearrange::picked;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Activation, Op};
use crate::plan::{Param, Step};
use crate::tensor::Tensor;

pub(super) struct Gate;

impl Rule for Gate {
    fn id(&self) -> &'static str {
        "gate"
    }

    fn what(&self) -> &'static str {
        "a gated layer has its gate and its up part swapped or mixed, or another activation function"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            match step.op {
                Op::Gate(ours) => gates(step, ours.activation, &mut all),
                Op::Linear(_) => concatenated(context, step, &mut all),
                _ => {}
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("gate and up swapped", |_| {
                Some(Edits::named_by("gate and up are swapped").steps(|step| {
                    if let Op::Gate(_) = step.op {
                        step.inputs.reverse();
                    }
                }))
            }),
            Bug::new("gate and up of 2 ranks cut in the middle", |modules| {
                let (gate, up) = modules.gated().next()?;
                let (gate, up) = (gate.weight, up.weight);
                let rows = part(*gate.shape.first()?, 2)?;
                let edits = Edits::named_by("2 ranks are concatenated rank by rank");
                // Of [gate₀; up₀; gate₁; up₁] the first two for the gate.
                let halves = move |a: &Tensor, b: &Tensor, half: usize| {
                    let of = |tensor: &Tensor| {
                        let order: Vec<usize> = (half * rows..(half + 1) * rows).collect();
                        let mut shape = tensor.shape().to_vec();
                        shape[0] = rows;
                        picked(tensor, &order, 2 * rows, &shape)
                    };
                    Tensor::concat(&[of(a)?, of(b)?], 0)
                };
                let edits = edits.weight_of_two(&gate.name, [&gate.name, &up.name], move |a, b| {
                    halves(a, b, 0)
                });
                Some(
                    edits.weight_of_two(&up.name, [&gate.name, &up.name], move |a, b| {
                        halves(a, b, 1)
                    }),
                )
            }),
            Bug::new("gate of another activation", |modules| {
                let ours = modules.steps().iter().find_map(|step| match step.op {
                    Op::Gate(op::Gate { activation }) => Some(activation),
                    _ => None,
                })?;
                let other = match ours {
                    Activation::Silu => Activation::Gelu,
                    _ => Activation::Silu,
                };
                let edits = Edits::named_by(format!("gate is {ours}, not {other}"));
                Some(edits.steps(move |step| {
                    if let Op::Gate(op::Gate { activation }) = &mut step.op {
                        *activation = other;
                    }
                }))
            }),
        ]
    }
}

fn gates<'a>(step: &Step, ours: Activation, all: &mut Vec<Rewrite<'a>>) {
    let swap = |step: &mut Step| step.inputs.reverse();
    let finding = "gate and up are swapped";
    all.push(Rewrite::of_step(
        &step.id,
        finding,
        "with gate and up swapped back",
        swap,
    ));
    for theirs in Activation::ALL.into_iter().filter(|theirs| *theirs != ours) {
        let finding = format!("the reference's gate is {theirs}, not {ours}");
        let set = move |step: &mut Step| step.op = Op::Gate(op::Gate { activation: theirs });
        all.push(Rewrite::of_step(
            &step.id,
            finding,
            format!("with the gate {theirs}"),
            set,
        ));
    }
}

/// The fused weight of `ranks` ranks is `[gate₀; up₀; gate₁; up₁; …]`; cut in the middle, each half
/// holds both.
fn concatenated<'a>(context: &Context<'a>, step: &Step, all: &mut Vec<Rewrite<'a>>) {
    let Some((other, is_gate)) = partner(context, step) else {
        return;
    };
    let (context, ours) = (*context, &step.params[0]);
    for ranks in [2, 4, 8] {
        if ours.shape[0] % ranks != 0 || other.shape != ours.shape {
            continue;
        }
        let finding = format!(
            "gate and up shards of {ranks} ranks are concatenated rank by rank, and cut in the middle"
        );
        let other = other.name.clone();
        let edit = move |weight: &Tensor| {
            let other = context.weights.load(&other)?;
            let (gate, up) = if is_gate {
                (weight, &other)
            } else {
                (&other, weight)
            };
            let fused = Tensor::concat(&[gate.clone(), up.clone()], 0)?;
            let width = weight.row_len();
            let rows = weight.len() / width.max(1) / ranks;
            let by_rank = fused.reshaped(&[ranks, 2, rows, width])?;
            let parts = by_rank
                .permuted(&[1, 0, 2, 3])
                .reshaped(&[2, weight.len()])?;
            picked(&parts, &[usize::from(!is_gate)], 2, weight.shape())
        };
        let remedy = format!("with gate and up of {ranks} ranks apart");
        all.push(Rewrite::of_param(&ours.name, finding, remedy, edit));
    }
}

/// The weight that is gated by, or gates, what a linear layer gives, and whether the layer is the
/// gate.
fn partner<'a>(context: &Context<'a>, step: &Step) -> Option<(&'a Param, bool)> {
    let mut gated = Modules::new(context.plan).gated();
    gated.find_map(|(gate, up)| match &step.id {
        id if *id == gate.step.id => Some((up.weight, true)),
        id if *id == up.step.id => Some((gate.weight, false)),
        _ => None,
    })
}
