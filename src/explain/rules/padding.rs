//! Padding that the reference masked, and that its dump says nothing of.

use crate::backend::Cpu;
use crate::error::Result;
use crate::explain::Subgraph;
use crate::explain::bug::Bug;
use crate::explain::context::Context;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::explain::steps::preceded;
use crate::op::{self, Op, Rounding};
use crate::plan::{StageId, Step};
use crate::tensor::{Float, Tensor, with_float};

pub(super) struct Padding;

impl Rule for Padding {
    fn id(&self) -> &'static str {
        "padding"
    }

    fn what(&self) -> &'static str {
        "the reference's batch was padded, and its mask was not recorded"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let softmax = |step: &&Step| matches!(step.op, Op::Softmax(_));
        let Some(last) = context.steps().last().filter(softmax) else {
            return Ok(Vec::new());
        };
        let Some(masked) = masked(context)? else {
            return Ok(Vec::new());
        };
        let finding = format!(
            "the reference masks positions {} as padding, and no attention_mask was recorded",
            places(&masked)
        );
        let input = last.inputs[0].clone();
        let rewrite = Rewrite::new(finding, "with these positions masked", move |subgraph| {
            mask(subgraph, &input, &masked)
        });
        Ok(vec![rewrite.certain(Certainty::Taken)])
    }

    fn bugs(&self) -> Vec<Bug> {
        // No model has it: it is the reference's run.
        Vec::new()
    }
}

/// The keys that the reference's last query of each sequence gives nothing, in any head, where the model gives them
/// something; `None` if there are none.
fn masked(context: &Context<'_>) -> Result<Option<Vec<Vec<usize>>>> {
    let subgraph = context.subgraph;
    let &[_, heads, queries, keys] = subgraph.reference.shape() else {
        return Ok(None);
    };
    if !context.is_small() {
        return Ok(None);
    }
    let theirs = subgraph.reference.widened()?;
    let ours = subgraph.result(&Cpu)?.widened()?;
    let (theirs, ours) = (theirs.as_slice::<f64>()?, ours.as_slice::<f64>()?);
    let of_sequence = (heads * queries * keys).max(1);
    let sequences = theirs.chunks(of_sequence).zip(ours.chunks(of_sequence));
    let all: Vec<Vec<usize>> = sequences
        .map(|(theirs, ours)| {
            let last = |values: &[f64], head: usize, key: usize| {
                values[(head * queries + queries - 1) * keys + key]
            };
            let is_masked = |key: &usize| {
                (0..heads).all(|head| last(theirs, head, *key) == 0.0)
                    && (0..heads).any(|head| last(ours, head, *key) != 0.0)
            };
            (0..keys).filter(is_masked).collect()
        })
        .collect();
    Ok(all.iter().any(|keys| !keys.is_empty()).then_some(all))
}

/// What to say where masking them alone is not the reference, as with a rotation or ALiBi that counts from the first
/// position that is no padding.
///
/// # Errors
/// If the subgraph cannot be run.
pub(in crate::explain) fn hint(context: &Context<'_>) -> Result<Option<String>> {
    let softmax = |step: &Step| matches!(step.op, Op::Softmax(_));
    if !context.steps().last().is_some_and(softmax) {
        return Ok(None);
    }
    let masked = masked(context)?;
    Ok(masked.map(|masked| format!("the reference masks positions {}: padding", places(&masked))))
}

/// Which positions of which sequences.
fn places(masked: &[Vec<usize>]) -> String {
    let sequences = masked
        .iter()
        .enumerate()
        .filter(|(_, keys)| !keys.is_empty());
    let sequences = sequences.map(|(at, keys)| format!("{} of sequence {at}", stretch(keys)));
    crate::error::listed(&sequences.collect::<Vec<_>>(), 4)
}

/// Masks keys before the softmax; the rows of padding itself, which no one reads, are not compared.
fn mask(subgraph: &mut Subgraph, input: &StageId, masked: &[Vec<usize>]) -> Result<()> {
    let &[batch, heads, queries, keys] = subgraph.reference.shape() else {
        return Ok(());
    };
    let Some(last) = subgraph.steps.last_mut().filter(|_| batch == masked.len()) else {
        return Ok(());
    };
    let id = StageId::from(format!("{}.padding", last.id).as_str());
    let mut add = preceded(last, input, Op::Add(op::Add), Rounding::EachOperation);
    add.inputs.push(id.clone());
    let place = subgraph.steps.len() - 1;
    subgraph.steps.insert(place, add);
    let is_own = |sequence: usize, query: usize| !masked[sequence].contains(&query);
    let hidden = |sequence: usize, query: usize, key: usize| {
        // A row of padding sees itself, so that it is one.
        masked[sequence].contains(&key) && (is_own(sequence, query) || key != query)
    };
    let mut values = Vec::with_capacity(subgraph.reference.len());
    for sequence in 0..batch {
        for _ in 0..heads {
            for (query, key) in (0..queries).flat_map(|q| (0..keys).map(move |k| (q, k))) {
                let is_hidden = hidden(sequence, query, key);
                values.push(if is_hidden { f64::NEG_INFINITY } else { 0.0 });
            }
        }
    }
    let dtype = subgraph.reference.dtype();
    let shape = subgraph.reference.shape().to_vec();
    let bias = with_float!(dtype, T => {
        Tensor::from_vec(&shape, values.into_iter().map(T::nearest).collect())?
    }, else return Ok(()));
    subgraph.given.insert(id, bias);
    let ours = subgraph.result(&Cpu)?;
    let rows = (0..batch * heads * queries).map(|row| {
        let (sequence, query) = (row / (heads * queries), row % queries);
        is_own(sequence, query)
    });
    subgraph.reference = with_float!(dtype, T => {
        let theirs = subgraph.reference.as_slice::<T>()?.chunks(keys.max(1));
        let ours = ours.as_slice::<T>()?.chunks(keys.max(1));
        let rows = rows.zip(theirs.zip(ours));
        let values = rows.flat_map(|(is_own, (theirs, ours))| if is_own { theirs } else { ours });
        Tensor::from_vec(&shape, values.copied().collect())?
    }, else return Ok(()));
    Ok(())
}

/// Positions in a row, as people write them: 0 to 4.
fn stretch(keys: &[usize]) -> String {
    match keys {
        [] => String::new(),
        [only] => only.to_string(),
        [first, .., last] if last - first + 1 == keys.len() => format!("{first} to {last}"),
        _ => crate::error::listed(keys, 4),
    }
}
