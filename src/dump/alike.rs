//! Two tensors in one shape: what frameworks and ranks lay out in other ways, as shapes and values say.

use super::Dumped;
use crate::compare::{Spec, compare};
use crate::error::Result;
use crate::tensor::Tensor;
use std::ops::Range;

/// Frameworks pad vocabularies to multiples of this, or of its multiples (Megatron's `make_vocab_size_divisible_by`).
const PADDED_TO: usize = 128;
/// What makes another order of values the right one: nearer by this factor.
const NEARER: f64 = 0.1;

/// Two tensors in one shape.
pub struct Alike {
    /// The reference's and the candidate's.
    pub values: [Tensor; 2],
    /// What was done to make them so, in words that follow *stages*.
    pub how: Vec<&'static str>,
}

const JOINED: &str = "are of several ranks: the same on all, or joined as shapes and values say";
const SWAPPED: &str = "have batch and sequence in the other order than the reference: swapped";
pub(crate) const PADDED: &str = "are padded at the end of their rows: compared over what both have";

/// The reference's tensor and the candidate's as wholes and in one shape; else why they cannot be.
///
/// # Errors
/// If one cannot be read.
pub(super) fn alike([ours, theirs]: [&Dumped; 2]) -> Result<std::result::Result<Alike, String>> {
    let are_joined = ours.ranks() > 1 || theirs.ranks() > 1;
    let (ours, theirs) = (ours.apart()?, theirs.apart()?);
    let why = || {
        let shown = |parts: &[Tensor]| match parts {
            [only] => format!("shape {:?}", only.shape()),
            _ => format!("{} ranks of shape {:?}", parts.len(), parts[0].shape()),
        };
        format!(
            "{} in the reference, {} in the candidate",
            shown(&ours),
            shown(&theirs)
        )
    };
    let mut how = Vec::new();
    if are_joined {
        how.push(JOINED);
    }
    for is_swapped in [false, true] {
        let parts = match is_swapped {
            true => swapped(&theirs),
            false => theirs.clone(),
        };
        let Some(values) = joined([&ours, &parts])? else {
            continue;
        };
        let values = match values {
            [ours, theirs] if ours.shape() == theirs.shape() => [ours, theirs],
            values => match unpadded(&values)? {
                Some(values) => {
                    how.push(PADDED);
                    values
                }
                None => continue,
            },
        };
        if is_swapped {
            how.push(SWAPPED);
            return Ok(Ok(Alike { values, how }));
        }
        // As many sequences as positions: values say which is which.
        let is_square = matches!(values[0].shape(), [a, b, ..] if a == b && *a > 1);
        if is_square {
            let [first, other] = &values;
            let turned = [
                first.clone(),
                swapped(std::slice::from_ref(other)).remove(0),
            ];
            if apart(&turned)? < NEARER * apart(&values)? {
                how.push(SWAPPED);
                return Ok(Ok(Alike {
                    values: turned,
                    how,
                }));
            }
        }
        return Ok(Ok(Alike { values, how }));
    }
    Ok(Err(why()))
}

/// A tensor whose first axis is the shorter of the first two: batch before sequence, as a rule.
pub(super) fn shorter_first(tensor: &Tensor) -> Tensor {
    match tensor.shape() {
        [a, b, ..] if a > b => swapped(std::slice::from_ref(tensor)).remove(0),
        _ => tensor.clone(),
    }
}

/// With the first two axes swapped, where there are two and more besides.
fn swapped(parts: &[Tensor]) -> Vec<Tensor> {
    let swap = |part: &Tensor| {
        let mut axes: Vec<usize> = (0..part.shape().len()).collect();
        if axes.len() > 2 {
            axes.swap(0, 1);
        }
        part.permuted(&axes)
    };
    parts.iter().map(swap).collect()
}

/// The part of two that both have, if one has longer rows, of a length that vocabularies are padded to.
///
/// # Errors
/// None for tensors that are whole.
pub(crate) fn unpadded([ours, theirs]: &[Tensor; 2]) -> Result<Option<[Tensor; 2]>> {
    let (Some((long, before)), Some((other, others))) =
        (ours.shape().split_last(), theirs.shape().split_last())
    else {
        return Ok(None);
    };
    let Some(shorter) = shared([*long, *other]).filter(|_| before == others && !before.is_empty())
    else {
        return Ok(None);
    };
    let first = |tensor: &Tensor| tensor.first(before.len(), shorter);
    Ok(Some([first(ours)?, first(theirs)?]))
}

/// How much of rows of these lengths both sides have: all, or what one pads; `None` if they are no rows of one kind.
pub(super) fn shared([ours, theirs]: [usize; 2]) -> Option<usize> {
    let (shorter, longer) = (ours.min(theirs), ours.max(theirs));
    let is_padded = longer.is_multiple_of(PADDED_TO) && 2 * shorter > longer;
    (ours == theirs || is_padded).then_some(shorter)
}

/// Parts of ranks joined along the one axis along which both sides are equally long; along the first where both are
/// divided alike. Whether a part is two, of a product each, is what their values say. `None` if there is no such axis.
fn joined([ours, theirs]: [&[Tensor]; 2]) -> Result<Option<[Tensor; 2]>> {
    let (first, other) = (&ours[0], &theirs[0]);
    if ours.len() == 1 && theirs.len() == 1 {
        return Ok(Some([first.clone(), other.clone()]));
    }
    let equal = |parts: &[Tensor]| parts.iter().all(|part| part.shape() == parts[0].shape());
    let axes = first.shape().len();
    if !equal(ours) || !equal(theirs) || axes != other.shape().len() {
        return Ok(None);
    }
    let is_along = |axis: &usize| {
        (0..axes).all(|of| {
            let (a, b) = (first.shape()[of], other.shape()[of]);
            if of == *axis {
                a.checked_mul(ours.len()) == b.checked_mul(theirs.len())
            } else {
                a == b
            }
        })
    };
    let Some(axis) = (0..axes).find(is_along) else {
        return Ok(None);
    };
    let whole = Tensor::concat(ours, axis)?;
    let mut best = [whole, Tensor::concat(theirs, axis)?];
    let mut nearest = apart(&best)?;
    // Two products side by side, as a gate and what it is for, are divided each for itself.
    for (halved, parts) in [(0, ours), (1, theirs)] {
        if parts.len() > 1 && parts[0].shape()[axis] % 2 == 0 {
            let mut turned = best.clone();
            turned[halved] = halves(parts, axis)?;
            let distance = apart(&turned)?;
            if distance < NEARER * nearest {
                (nearest, best) = (distance, turned);
            }
        }
    }
    Ok(Some(best))
}

/// The first halves of all parts, then the second ones.
fn halves(parts: &[Tensor], axis: usize) -> Result<Tensor> {
    let extent = parts[0].shape()[axis];
    let half = |range: Range<usize>| {
        parts
            .iter()
            .map(move |part| part.slice(axis, range.clone()))
    };
    let all = half(0..extent / 2).chain(half(extent / 2..extent));
    Tensor::concat(&all.collect::<Result<Vec<_>>>()?, axis)
}

/// How far two tensors are apart, relative to the first.
fn apart([ours, theirs]: &[Tensor; 2]) -> Result<f64> {
    Ok(compare(&ours.widened()?, &theirs.widened()?, &Spec::default())?.relative_frobenius)
}
