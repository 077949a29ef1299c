//! What narrows a difference that nothing explains: where it lies and what shape it has.

use super::fit::{Scaled, largest_part};
use super::rules::{bias, padding};
use super::{Context, Subgraph};
use crate::backend::HostBackend;
use crate::error::Result;

/// Part of the squared difference that is worth a sentence.
const MOST: f64 = 0.9;

/// Sentences about a subgraph and the difference that is left of it after `rewritten`.
///
/// # Errors
/// If the subgraph cannot be run, or a weight cannot be read.
pub(super) fn of(
    context: &Context<'_>,
    rewritten: &Subgraph,
    backend: &HostBackend,
) -> Result<Vec<String>> {
    let mut hints = bias::zeros(context)?;
    hints.extend(padding::hint(context)?);
    hints.extend(of_difference(rewritten, context.heads(), backend)?);
    Ok(hints)
}

/// `heads` is how many lie side by side in the subgraph's columns.
fn of_difference(
    subgraph: &Subgraph,
    heads: Option<usize>,
    backend: &HostBackend,
) -> Result<Vec<String>> {
    let found = subgraph.result(backend)?.widened()?;
    let reference = subgraph.reference.widened()?;
    let shape = reference.shape().to_vec();
    let (found, reference) = (found.as_slice::<f64>()?, reference.as_slice::<f64>()?);
    let mut hints = vec!["the inputs are the reference's own: the difference arises here".into()];
    if found.len() != reference.len() || found.iter().chain(reference).any(|x| !x.is_finite()) {
        hints.push("the values are not all finite".into());
        return Ok(hints);
    }
    let difference: Vec<f64> = found.iter().zip(reference).map(|(a, b)| a - b).collect();
    for (axis, name) in names(&shape).into_iter().enumerate() {
        hints.extend(name.and_then(|name| concentration(&difference, &shape, axis, name)));
    }
    let width = shape.last().copied().unwrap_or(1).max(1);
    if let Some(heads) = heads.filter(|heads| *heads > 0 && width.is_multiple_of(*heads)) {
        let by_head = [difference.len() / width, heads, width / heads];
        hints.extend(concentration(&difference, &by_head, 1, "heads"));
    }
    hints.extend(constant(&difference, width));
    hints.extend(factor(found, reference));
    hints.extend(low_rank(&difference, width));
    Ok(hints)
}

/// What the axes of a value are: `[b, s, h]` or `[b, n, s, …]`.
fn names(shape: &[usize]) -> Vec<Option<&'static str>> {
    match shape.len() {
        3 => vec![Some("sequences"), Some("positions"), Some("columns")],
        4 => vec![
            Some("sequences"),
            Some("heads"),
            Some("positions"),
            Some("columns"),
        ],
        axes => vec![None; axes],
    }
}

/// Whether a few places of an axis carry most of the difference.
fn concentration(difference: &[f64], shape: &[usize], axis: usize, name: &str) -> Option<String> {
    let extent = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    let mut squares = vec![0.0; extent];
    for (index, x) in difference.iter().enumerate() {
        squares[index / inner.max(1) % extent.max(1)] += x * x;
    }
    let total: f64 = squares.iter().sum();
    let mut places: Vec<usize> = (0..extent).collect();
    places.sort_by(|a, b| squares[*b].total_cmp(&squares[*a]));
    let mut carried = 0.0;
    let mut count = 0;
    for place in &places {
        if carried >= MOST * total {
            break;
        }
        carried += squares[*place];
        count += 1;
    }
    (total > 0.0 && extent > 1 && 4 * count <= extent).then(|| {
        const SHOWN: usize = 4;
        let mut first: Vec<usize> = places[..count.min(SHOWN)].to_vec();
        first.sort_unstable();
        let more = if count > SHOWN { ", …" } else { "" };
        let first: Vec<String> = first.iter().map(usize::to_string).collect();
        format!(
            "{:.0} % of the squared difference lies in {count} of {extent} {name} ({}{more})",
            100.0 * carried / total,
            first.join(", "),
        )
    })
}

/// Whether every column is off by the same amount in all rows.
fn constant(difference: &[f64], width: usize) -> Option<String> {
    let rows = difference.len() / width;
    let total: f64 = difference.iter().map(|x| x * x).sum();
    let explained: f64 = (0..width)
        .map(|column| {
            let sum: f64 = (0..rows).map(|row| difference[row * width + column]).sum();
            sum * sum / rows as f64
        })
        .sum();
    (rows > 1 && explained > MOST * total).then(|| {
        let share = 100.0 * explained / total;
        format!("{share:.0} % of the squared difference is a constant of every column")
    })
}

/// Whether the reference is a multiple of the candidate.
fn factor(found: &[f64], reference: &[f64]) -> Option<String> {
    let Scaled {
        factor,
        left,
        squares,
    } = Scaled::new(found, reference);
    let total: f64 = found
        .iter()
        .zip(reference)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    (factor.is_finite() && left < (1.0 - MOST) * total.min(squares))
        .then(|| format!("the reference is about {factor:.4} times the candidate"))
}

/// Whether the difference is a column times a row.
fn low_rank(difference: &[f64], width: usize) -> Option<String> {
    let rows = difference.len() / width;
    let squares = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
    let total = squares(difference);
    if rows < 4 || width < 4 || total == 0.0 {
        return None;
    }
    let carried = squares(&largest_part(difference, width));
    (carried > MOST * total).then(|| {
        let share = 100.0 * carried / total;
        format!("the difference has rank one ({share:.0} % of its square)")
    })
}
