//! The weights of experts: in another order, gate and up swapped, or their rows taken in turns.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rearrange::picked;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::op::Op;
use crate::plan::{Plan, StageId, Step};
use crate::tensor::Tensor;

/// Columns and rows of an expert's product that it is recognised by.
const COLUMNS: usize = 16;
const ROWS: usize = 4;
/// How far its values may be from another's product, relative to their size.
const NEAR: f64 = 0.05;
/// Most pairs of experts that are tried.
const PAIRS: usize = 1 << 16;

pub(super) struct Experts;

impl Rule for Experts {
    fn id(&self) -> &'static str {
        "experts"
    }

    fn what(&self) -> &'static str {
        "experts are in another order, or their gate and up parts are swapped or mixed"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let [step] = context.steps() else {
            return Ok(Vec::new());
        };
        if !matches!(step.op, Op::ExpertLinear(_)) {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        all.extend(in_order(context, step)?);
        if let Some((other, is_gate)) = partner(context.plan, step) {
            let context = *context;
            let theirs = names(other);
            let ours = names(step);
            let pairs: Vec<(String, String)> = ours.into_iter().zip(theirs).collect();
            let swapped = pairs.clone();
            all.push(Rewrite::new(
                "gate and up of experts are swapped",
                "with gate and up swapped back",
                move |subgraph| {
                    for (name, other) in &swapped {
                        let value = context.weights.load(other)?;
                        subgraph.params.insert(name.clone(), value);
                    }
                    Ok(())
                },
            ));
            all.push(Rewrite::new(
                "gate and up of experts are mixed: their rows were taken in turns",
                "with the rows of each together",
                move |subgraph| {
                    for (name, other) in &pairs {
                        let [own, other] =
                            [context.weights.load(name)?, context.weights.load(other)?];
                        let (gate, up) = if is_gate { (own, other) } else { (other, own) };
                        // Every second row of the two as they were written.
                        let value = of_turns(&gate, &up, is_gate, true)?;
                        subgraph.params.insert(name.clone(), value);
                    }
                    Ok(())
                },
            ));
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("two experts swapped", |modules| {
                let of_experts =
                    |step: &&Step| matches!(step.op, Op::ExpertLinear(_)) && step.params.len() > 1;
                let first = modules.steps().iter().find(of_experts)?.stage.layer();
                let layers = modules.steps().iter().filter(of_experts);
                let layers = layers.filter(|step| step.stage.layer() == first);
                let edits = Edits::named_by("0 and 1 are swapped");
                Some(layers.fold(edits, |edits, step| {
                    edits.swap(&step.params[0].name, &step.params[1].name)
                }))
            }),
            Bug::new("gate and up of experts swapped", |modules| {
                let (gate, up) = gated(modules.steps())?;
                let edits = Edits::named_by("gate and up of experts are swapped");
                let pairs = names(gate).into_iter().zip(names(up));
                Some(pairs.fold(edits, |edits, (gate, up)| edits.swap(&gate, &up)))
            }),
            Bug::new("gate and up of experts taken in turns", |modules| {
                let (gate, up) = gated(modules.steps())?;
                let edits = Edits::named_by("their rows were taken in turns");
                let pairs = names(gate).into_iter().zip(names(up));
                Some(pairs.fold(edits, |edits, (gate, up)| {
                    let both = [gate.as_str(), up.as_str()];
                    edits
                        .weight_of_two(&gate, both, |gate, up| of_turns(gate, up, true, false))
                        .weight_of_two(&up, both, |gate, up| of_turns(gate, up, false, false))
                }))
            }),
        ]
    }
}

fn names(step: &Step) -> Vec<String> {
    step.params.iter().map(|param| param.name.clone()).collect()
}

/// Of gate and up one after the other, every second row, from the first or the second on; or the other way round: of
/// what that left, the half that is the gate, or the other.
fn of_turns(gate: &Tensor, up: &Tensor, is_gate: bool, back: bool) -> Result<Tensor> {
    let rows = gate.shape().first().copied().unwrap_or(0);
    let both = Tensor::concat(&[gate.clone(), up.clone()], 0)?;
    let own = usize::from(!is_gate);
    let order: Vec<usize> = match back {
        false => (0..rows).map(|row| 2 * row + own).collect(),
        true => {
            let all = (own * rows)..(own + 1) * rows;
            all.map(|row| row / 2 + row % 2 * rows).collect()
        }
    };
    picked(&both, &order, 2 * rows, gate.shape())
}

/// The layers of experts whose results are multiplied, the gate's first.
fn gated(steps: &[Step]) -> Option<(&Step, &Step)> {
    steps.iter().find_map(|step| {
        let (Op::Multiply(_), [activated, up]) = (&step.op, step.inputs.as_slice()) else {
            return None;
        };
        let of = |id: &StageId| steps.iter().find(|step| step.id == *id);
        let gate = of(of(activated)?.inputs.first()?)?;
        let up = of(up)?;
        let are_experts = [gate, up].map(|step| matches!(step.op, Op::ExpertLinear(_)));
        (are_experts == [true; 2]).then_some((gate, up))
    })
}

/// The other of gate and up, and whether the step itself is the gate.
fn partner<'p>(plan: &'p Plan, step: &Step) -> Option<(&'p Step, bool)> {
    let layer = step.stage.layer();
    let steps: Vec<&Step> = plan.steps().iter().collect();
    let own: Vec<Step> = steps
        .into_iter()
        .filter(|step| step.stage.layer() == layer)
        .cloned()
        .collect();
    let (gate, up) = gated(&own)?;
    let (other, is_gate) = match (gate.id == step.id, up.id == step.id) {
        (true, _) => (&up.id, true),
        (_, true) => (&gate.id, false),
        _ => return None,
    };
    let other = plan.steps().iter().find(|step| step.id == *other)?;
    Some((other, is_gate))
}

/// With the experts in the order that the reference's rows show, if that is another.
fn in_order<'a>(context: &Context<'a>, step: &Step) -> Result<Option<Rewrite<'a>>> {
    let Op::ExpertLinear(op) = &step.op else {
        return Ok(None);
    };
    let subgraph = context.subgraph;
    let values = step.inputs.iter().map(|input| subgraph.given.get(input));
    let (Some(values), 1) = (values.collect::<Option<Vec<&Tensor>>>(), op.parts) else {
        return Ok(None);
    };
    let experts = step.params.len();
    let weights: Option<Vec<&Tensor>> = step
        .params
        .iter()
        .map(|param| subgraph.params.get(&param.name))
        .collect();
    let Some(weights) = weights.filter(|_| experts * experts <= PAIRS) else {
        return Ok(None);
    };
    let [x, choice] = [values[0].widened()?, values[1].widened()?];
    let reference = subgraph.reference.widened()?;
    let (x, choice, all) = (
        x.as_slice::<f64>()?,
        choice.as_slice::<f64>()?,
        reference.as_slice()?,
    );
    let &[out, width] = step.params[0].shape.as_slice() else {
        return Ok(None);
    };
    let chosen = values[1].row_len().max(1);
    let columns = out.min(COLUMNS);
    let heads = weights
        .iter()
        .map(|weight| weight.first(0, columns)?.widened());
    let heads = heads.collect::<Result<Vec<Tensor>>>()?;
    let near = |place: usize, expert: usize| -> Result<bool> {
        let row = if op.of_choices { place } else { place / chosen };
        let x = &x[row * width..(row + 1) * width];
        let theirs: &[f64] = &all[place * out..place * out + columns];
        let weight = heads[expert].as_slice::<f64>()?;
        let (mut apart, mut size) = (0.0, 0.0);
        for (weight, theirs) in weight.chunks(width).zip(theirs) {
            let ours: f64 = x.iter().zip(weight).map(|(x, w)| x * w).sum();
            apart += (ours - theirs).powi(2);
            size += theirs.powi(2);
        }
        Ok(apart <= NEAR * NEAR * size)
    };
    // The expert whose rows the reference has where it chose this one: itself, if nobody's fit.
    let counterpart = |expert: usize| -> Result<usize> {
        let places = choice.iter().enumerate();
        let places = places.filter(|(_, of)| **of == expert as f64);
        let places: Vec<usize> = places.map(|(place, _)| place).take(ROWS).collect();
        for other in (0..experts).filter(|_| !places.is_empty()) {
            let mut all_near = true;
            for place in &places {
                all_near &= near(*place, other)?;
            }
            if all_near {
                return Ok(other);
            }
        }
        Ok(expert)
    };
    let order = (0..experts)
        .map(counterpart)
        .collect::<Result<Vec<usize>>>()?;
    let moved: Vec<usize> = (0..experts)
        .filter(|expert| order[*expert] != *expert)
        .collect();
    let what = match moved.as_slice() {
        [] => return Ok(None),
        [a, b] if order[*a] == *b && order[*b] == *a => format!("{a} and {b} are swapped"),
        [first, ..] => format!(
            "{} of them are elsewhere, the reference's {first} is the model's {}",
            moved.len(),
            order[*first]
        ),
    };
    let names = names(step);
    let context = *context;
    let rewrite = Rewrite::new(
        format!("experts are in another order: {what}"),
        "with the experts in the order that the reference's values show",
        move |subgraph| {
            for expert in &moved {
                let value = context.weights.load(&names[order[*expert]])?;
                subgraph.params.insert(names[*expert].clone(), value);
            }
            Ok(())
        },
    );
    Ok(Some(rewrite.certain(Certainty::Fitted)))
}
