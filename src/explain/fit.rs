//! Parameters as the reference must have had them.

use super::Subgraph;
use super::steps::split;
use crate::backend::Fp64;
use crate::error::{Error, Result};
use crate::op::{self, Op};
use crate::plan::Step;
use crate::tensor::{DType, Float, Tensor, with_float};
use rayon::prelude::*;

/// Gauss–Newton steps.
const STEPS: usize = 30;

/// What a factor makes of values.
pub(super) struct Scaled {
    /// The factor that takes them nearest to the reference's.
    pub(super) factor: f64,
    /// The squared difference that is left then.
    pub(super) left: f64,
    /// The reference's sum of squares.
    pub(super) squares: f64,
}

impl Scaled {
    /// By least squares.
    pub(super) fn new(found: &[f64], reference: &[f64]) -> Self {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let product = dot(found, reference);
        let factor = product / dot(found, found);
        let squares = dot(reference, reference);
        Self {
            factor,
            left: squares - product * factor,
            squares,
        }
    }
}

/// What of rows of this width lies along one direction, the one that carries most of them, by power iteration.
pub(super) fn largest_part(values: &[f64], width: usize) -> Vec<f64> {
    const ITERATIONS: usize = 6;
    let width = width.max(1);
    let squares = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>();
    // Started from the largest row: not orthogonal to what is looked for.
    let rows = values.chunks(width);
    let Some(largest) = rows.max_by(|a, b| squares(a).total_cmp(&squares(b))) else {
        return Vec::new();
    };
    let mut direction = largest.to_vec();
    let along = |direction: &[f64]| -> Vec<f64> {
        let rows = values.par_chunks(width);
        rows.map(|row| row.iter().zip(direction).map(|(a, b)| a * b).sum())
            .collect()
    };
    for _ in 0..ITERATIONS {
        let norm = squares(&direction).sqrt();
        if norm == 0.0 {
            return vec![0.0; values.len()];
        }
        direction.iter_mut().for_each(|x| *x /= norm);
        let mut next = vec![0.0; width];
        for (row, along) in values.chunks(width).zip(along(&direction)) {
            next.iter_mut()
                .zip(row)
                .for_each(|(next, x)| *next += along * x);
        }
        direction = next;
    }
    let norm = squares(&direction).sqrt();
    direction
        .iter_mut()
        .for_each(|x| *x /= norm.max(f64::MIN_POSITIVE));
    let along = along(&direction);
    let rows = along.iter();
    rows.flat_map(|along| direction.iter().map(move |x| along * x))
        .collect()
}

/// Replaces a parameter of one entry a column by the one that the reference's values fit best, by
/// least squares over all rows; in fp64, one Gauss–Newton problem a column. Every column of the
/// result has to depend on its own entry alone.
///
/// How far off a fitted entry may be follows from the differences that are left.
///
/// # Errors
/// If the subgraph cannot be run, or the result lacks a column for an entry.
pub(super) fn fit(subgraph: &mut Subgraph, name: &str) -> Result<()> {
    let dtype = subgraph.params[name].dtype();
    let suffix = suffix(subgraph, name)?;
    let reference = suffix.reference.widened()?;
    let expected = reference.as_slice::<f64>()?;
    let start = suffix.params[name].widened()?;
    let mut values = start.as_slice::<f64>()?.to_vec();
    let width = values.len().max(1);
    let rows = (expected.len() / width).max(1);
    let at = |values: &[f64]| -> Result<Vec<f64>> {
        let mut trial = suffix.clone();
        let param = Tensor::from_vec(&[values.len()], values.to_vec())?;
        trial.params.insert(name.to_owned(), param);
        let result = trial.result(&Fp64)?;
        Ok(result.as_slice::<f64>()?.to_vec())
    };
    let unit = suffix.reference.dtype().unit_roundoff().unwrap_or(0.0);
    let mut std = vec![0.0_f32; width];
    for _ in 0..STEPS {
        let steps: Vec<f64> = values.iter().map(|x| 1e-6 * (1.0 + x.abs())).collect();
        let ahead: Vec<f64> = values
            .iter()
            .zip(&steps)
            .map(|(x, step)| x + step)
            .collect();
        let (now, ahead) = (at(&values)?, at(&ahead)?);
        let mut largest = 0.0_f64;
        for column in 0..width {
            let (mut projected, mut slopes, mut spread) = (0.0, 0.0, 0.0);
            for row in 0..rows {
                let index = row * width + column;
                let slope = (ahead[index] - now[index]) / steps[column];
                let missing = expected[index] - now[index];
                projected += slope * missing;
                slopes += slope * slope;
                let rounding = unit * expected[index];
                spread += slope * slope * (missing * missing + rounding * rounding);
            }
            let change = projected / slopes;
            // A far start may overshoot where a function is flat.
            let limit = 1.0 + values[column].abs();
            if !(change.is_finite() && limit.is_finite()) {
                continue;
            }
            let change = change.clamp(-limit, limit);
            values[column] += change;
            largest = largest.max(change.abs() / (1e-12 + values[column].abs()));
            // Rows count by how much they say of the entry; what is left of few is less than they are off.
            std[column] = (spread.sqrt() / slopes) as f32;
        }
        if largest < 1e-9 {
            break;
        }
    }
    let (fitted, std) = rounded(&values, std, dtype)?;
    subgraph.set_entries(name, &fitted, &std)
}

/// Replaces weight and bias of a norm, the subgraph's only step, by those that the reference's values
/// fit best: a line through the normalised values of every column, in fp64. A line needs more than
/// two rows.
///
/// # Errors
/// If the subgraph cannot be run.
pub(super) fn fit_line(subgraph: &mut Subgraph, weight: &str, bias: &str) -> Result<()> {
    let dtype = subgraph.params[weight].dtype();
    let width = subgraph.params[weight].len().max(1);
    let mut plain = subgraph.clone();
    for (name, value) in [(weight, 1.0), (bias, 0.0)] {
        let constant = Tensor::from_vec(&[width], vec![value; width])?;
        plain.params.insert(name.to_owned(), constant);
    }
    let normalised = plain.result(&Fp64)?;
    let reference = subgraph.reference.widened()?;
    let (x, y) = (normalised.as_slice::<f64>()?, reference.as_slice::<f64>()?);
    let rows = (y.len() / width) as f64;
    let [mut slopes, mut offsets] = [(); 2].map(|()| (Vec::new(), Vec::new()));
    for column in 0..width {
        let points = || {
            let rows = x.iter().zip(y).skip(column).step_by(width);
            rows.map(|(x, y)| (*x, *y))
        };
        let (sum_x, sum_y) = points().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        let (mean_x, mean_y) = (sum_x / rows, sum_y / rows);
        let square: f64 = points().map(|(x, _)| (x - mean_x).powi(2)).sum();
        let product: f64 = points().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
        let slope = product / square;
        let offset = mean_y - slope * mean_x;
        let left: f64 = points()
            .map(|(x, y)| (y - slope * x - offset).powi(2))
            .sum();
        let noise = (left / (rows - 2.0)).sqrt();
        slopes.0.push(slope);
        slopes.1.push((noise / square.sqrt()) as f32);
        offsets.0.push(offset);
        offsets
            .1
            .push((noise * (1.0 / rows + mean_x * mean_x / square).sqrt()) as f32);
    }
    for (name, (values, std)) in [(weight, slopes), (bias, offsets)] {
        let (fitted, std) = rounded(&values, std, dtype)?;
        subgraph.set_entries(name, &fitted, &std)?;
    }
    Ok(())
}

/// Fitted values in their storage type, and how far they may be off in it.
fn rounded(values: &[f64], mut std: Vec<f32>, dtype: DType) -> Result<(Tensor, Vec<f32>)> {
    let fitted = with_float!(dtype, T => {
        let rounded = values.iter().map(|x| T::nearest(*x));
        Tensor::from_vec(&[values.len()], rounded.collect())?
    }, else return Err(Error::Mismatch {
        at: "fit".into(),
        expected: "a parameter of a model".into(),
        found: dtype.to_string(),
    }));
    let unit = dtype.unit_roundoff().unwrap_or(0.0);
    for (std, value) in std.iter_mut().zip(values) {
        *std += (unit * value.abs()) as f32;
    }
    Ok((fitted, std))
}

/// The steps of a subgraph from the one that reads a parameter on, given the values before it.
fn suffix(subgraph: &Subgraph, name: &str) -> Result<Subgraph> {
    let mut suffix = subgraph.narrowed()?.into_owned();
    let reads = |step: &Step| step.params.iter().any(|param| param.name == name);
    let Some(mut index) = suffix.steps.iter().position(reads) else {
        return Ok(suffix);
    };
    if let Op::Linear(op::Linear { bias: true, .. }) = suffix.steps[index].op {
        let split = split(&suffix.steps[index]);
        suffix.steps.splice(index..=index, split);
        index += 1;
    }
    let steps = suffix.steps.split_off(index);
    for step in std::mem::replace(&mut suffix.steps, steps) {
        let mut before = suffix.clone();
        before.steps = vec![step.clone()];
        let value = before.result(&Fp64)?;
        suffix.given.insert(step.id, value);
    }
    Ok(suffix)
}
