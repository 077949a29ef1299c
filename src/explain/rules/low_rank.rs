//! An update of low rank that one side has: an adapter that was not merged, or merged twice.

use crate::backend::Cpu;
use crate::error::Result;
use crate::explain::Subgraph;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::fit::largest_part;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::explain::steps::followed;
use crate::op::{self, ErrorBound, Op, Rounding};
use crate::plan::{StageId, Step};
use crate::tensor::{Float, Tensor, with_float};

pub(super) struct LowRank;

/// Rows and columns that a rank is found on.
const SAMPLE: usize = 256;
/// Fewest rows, columns and inputs that a low rank means something of.
const FEWEST: usize = 8;

impl Rule for LowRank {
    fn id(&self) -> &'static str {
        "low-rank"
    }

    fn what(&self) -> &'static str {
        "a weight lacks an update of low rank, or has one too many: an adapter that was not merged, or merged twice"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let Some((product, rest)) = context.steps().split_first() else {
            return Ok(Vec::new());
        };
        let adds = |step: &Step| matches!(step.op, Op::AddBias(_) | Op::Add(_));
        let is_product = matches!(product.op, Op::Linear(_)) && rest.iter().all(adds);
        if !is_product || !context.is_small() {
            return Ok(Vec::new());
        }
        let sample = context.subgraph.sampled_to(SAMPLE, SAMPLE);
        let sample = sample.as_ref().unwrap_or(context.subgraph);
        let inputs = product.params[0].shape.last().copied().unwrap_or(0);
        let Some(rank) = rank(&difference(sample)?, sample.reference.row_len(), inputs) else {
            return Ok(Vec::new());
        };
        let name = &product.params[0].name;
        let finding = format!(
            "{} is the reference's less an update of rank {rank}, as of an adapter that was not merged, or was \
             merged twice",
            StageId::from(name.as_str()).kind()
        );
        let remedy = "with what of the difference has this rank";
        let rewrite = Rewrite::new(finding, remedy, move |subgraph| add_update(subgraph, rank));
        Ok(vec![rewrite.certain(Certainty::Taken).about(name)])
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![Bug::new("an adapter of rank 3 not merged", |modules| {
            let weight = modules.attention_outputs().next()?.weight;
            let edits = Edits::named_by("an update of rank 3");
            Some(edits.weight(&weight.name, |weight| less_an_update(weight, 3)))
        })]
    }
}

/// How far the reference's values are from the model's.
fn difference(subgraph: &Subgraph) -> Result<Vec<f64>> {
    let ours = subgraph.result(&Cpu)?.widened()?;
    let theirs = subgraph.reference.widened()?;
    let pairs = theirs
        .as_slice::<f64>()?
        .iter()
        .zip(ours.as_slice::<f64>()?);
    Ok(pairs.map(|(theirs, ours)| theirs - ours).collect())
}

/// The rank after which what is left of a difference falls to noise, if it is low, and no few rows or columns are all
/// there is.
fn rank(difference: &[f64], width: usize, inputs: usize) -> Option<usize> {
    /// By how much what is left falls with the last of the rank, and how little is left of all.
    const FALL: f64 = 3.0;
    const LEFT: f64 = 0.5;
    let rows = difference.len().checked_div(width)?;
    let smallest = rows.min(width).min(inputs);
    if smallest < FEWEST || difference.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut left = difference.to_vec();
    let mut norms = vec![norm(&left)];
    for _ in 0..smallest / 2 {
        take_largest(&mut left, width);
        norms.push(norm(&left));
    }
    let falls = norms
        .windows(2)
        .map(|pair| pair[0] / pair[1].max(f64::MIN_POSITIVE));
    let (place, fall) = falls.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let rank = place + 1;
    let is_low = fall > FALL && norms[rank] < LEFT * norms[0];
    let in_columns = |index: usize| index % width;
    let in_rows = |index: usize| index / width;
    let is_few = few(difference, width, in_columns, rank) || few(difference, rows, in_rows, rank);
    (is_low && !is_few).then_some(rank)
}

fn take_largest(left: &mut [f64], width: usize) {
    let part = largest_part(left, width);
    left.iter_mut()
        .zip(part)
        .for_each(|(left, part)| *left -= part);
}

/// Whether as few places as the rank has carry nearly all of a difference: it is of them, not of a rank.
fn few(difference: &[f64], count: usize, of: impl Fn(usize) -> usize, rank: usize) -> bool {
    const ALL: f64 = 0.99;
    let mut squares = vec![0.0; count];
    for (index, x) in difference.iter().enumerate() {
        squares[of(index)] += x * x;
    }
    squares.sort_by(|a, b| b.total_cmp(a));
    let total: f64 = squares.iter().sum();
    squares.iter().take(rank).sum::<f64>() >= ALL * total
}

/// Adds what of the difference has this rank.
fn add_update(subgraph: &mut Subgraph, rank: usize) -> Result<()> {
    let difference = difference(subgraph)?;
    let width = subgraph.reference.row_len().max(1);
    let mut left = difference.clone();
    for _ in 0..rank {
        take_largest(&mut left, width);
    }
    let reference = &subgraph.reference;
    let dtype = reference.dtype();
    let parts = difference.iter().zip(&left).map(|(all, left)| all - left);
    let parts: Vec<f64> = parts.collect();
    let update = with_float!(dtype, T => {
        Tensor::from_vec(reference.shape(), parts.iter().map(|x| T::nearest(*x)).collect())?
    }, else return Ok(()));
    // The reference multiplied by a weight that was rounded with the update in it: that is off by as much as a value of
    // usual size, however small the sum is; and the update was rounded here.
    let unit = dtype.unit_roundoff().unwrap_or(0.0);
    let wide = reference.widened()?;
    let values = wide.as_slice::<f64>()?;
    let usual = (values.iter().map(|x| x * x).sum::<f64>() / values.len().max(1) as f64).sqrt();
    let sizes = values
        .iter()
        .zip(&parts)
        .map(|(x, part)| x.abs() + part.abs() + usual);
    let amounts = sizes.map(|size| (2.0 * unit * size) as f32);
    let amounts = ErrorBound::from_std(amounts.collect());
    let Some(last) = subgraph.steps.last_mut() else {
        return Ok(());
    };
    let mut add = followed(last, Op::Add(op::Add), Rounding::EachOperation);
    let id = StageId::from(format!("{}.update", add.id).as_str());
    add.inputs.push(id.clone());
    subgraph.steps.push(add);
    subgraph.uncertain.insert(id.to_string(), amounts);
    subgraph.given.insert(id, update);
    Ok(())
}

/// A weight less a product of two narrow matrices whose entries look random.
fn less_an_update(weight: &Tensor, rank: usize) -> Result<Tensor> {
    let width = weight.row_len().max(1);
    let entry = |row: usize, of: usize| {
        let mixed = ((row * 31 + of * 7919) as u32)
            .wrapping_mul(2_654_435_761)
            .rotate_left(11);
        f64::from(mixed.wrapping_mul(2_246_822_519) >> 8) / f64::from(1_u32 << 24) - 0.5
    };
    let values = weight.widened()?;
    let values = values.as_slice::<f64>()?;
    let mean = values.iter().map(|x| x.abs()).sum::<f64>() / values.len().max(1) as f64;
    let changed = values.iter().enumerate().map(|(index, x)| {
        let (row, column) = (index / width, index % width);
        let update: f64 = (0..rank)
            .map(|of| entry(row, of) * entry(column, of + 17))
            .sum();
        x - 4.0 * mean * update
    });
    with_float!(weight.dtype(), T => {
        Tensor::from_vec(weight.shape(), changed.map(T::nearest).collect())
    }, else Ok(weight.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn products(rows: usize, width: usize, rank: usize, noise: f64) -> Vec<f64> {
        let mut state = 7_u64;
        let mut draw = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        };
        let a: Vec<f64> = (0..rows * rank).map(|_| draw()).collect();
        let b: Vec<f64> = (0..width * rank).map(|_| draw()).collect();
        let of = |row: usize, column: usize| -> f64 {
            (0..rank)
                .map(|of| a[row * rank + of] * b[column * rank + of])
                .sum()
        };
        let places = (0..rows * width).map(|index| (index / width, index % width));
        places
            .map(|(row, column)| of(row, column) + noise * draw())
            .collect()
    }

    #[test]
    fn ranks_are_counted_under_noise() {
        for rank_of in [1, 2, 4, 9] {
            for noise in [0.0, 1e-6, 1e-2] {
                let difference = products(30, 50, rank_of, noise);
                assert_eq!(
                    rank(&difference, 50, 40),
                    Some(rank_of),
                    "{rank_of}, {noise}"
                );
            }
        }
        // Noise has every rank; few rows have few, and are said to be rows.
        assert_eq!(rank(&products(30, 50, 0, 1.0), 50, 40), None);
        let mut one_column = vec![0.0; 1500];
        (0..30).for_each(|row| one_column[row * 50 + 3] = row as f64 - 11.5);
        assert_eq!(rank(&one_column, 50, 40), None);
    }
}
