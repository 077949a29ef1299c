//! Weights that went through a narrower type: the candidate's, which then hold few different
//! values, or the reference's.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rearrange::mapped;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::op::ErrorBound;
use crate::tensor::{DType, Tensor};
use std::collections::BTreeSet;

/// Magnitudes that an 8-bit type has at most.
const EIGHT_BIT: usize = 128;

pub(super) struct WeightPrecision;

impl Rule for WeightPrecision {
    fn id(&self) -> &'static str {
        "weight-precision"
    }

    fn what(&self) -> &'static str {
        "weights went through a narrower type: the model's, which then hold few different values, or the reference's"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for (name, param) in &context.subgraph.params {
            for narrow in [DType::Bf16, DType::F16] {
                if param.dtype() != DType::F32 {
                    continue;
                }
                match param.narrowed_exactly(narrow) {
                    Ok(_) => {
                        let unit = narrow.unit_roundoff().unwrap_or(0.0);
                        let amounts = amounts(param, |x| unit * x.abs())?;
                        all.push(rounded(name, &narrow.to_string(), amounts));
                    }
                    Err(_) => {
                        let finding = format!("the reference's weights are rounded to {narrow}");
                        let edit = move |param: &Tensor| param.cast(narrow)?.cast(DType::F32);
                        let remedy = format!("with weights rounded to {narrow}");
                        all.push(Rewrite::of_param(name, finding, remedy, edit));
                    }
                }
            }
            if let Some((kind, amounts)) = eight_bit(param)? {
                all.push(rounded(name, kind, amounts));
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("qkv weight through fp8 (e5m2)", |modules| {
                let weight = &modules.queries().next()?.layer.weight.name;
                let edits = Edits::named_by("rounded through fp8 (e5m2)");
                Some(edits.weight(weight, |weight| through_eight_bit(weight, 2, -14, 57344.0)))
            }),
            Bug::new("dense_h_to_4h through fp8 (e4m3)", |modules| {
                let weight = &modules.widening().next()?.weight.name;
                let edits = Edits::named_by("rounded through fp8 (e4m3)");
                Some(edits.weight(weight, |weight| through_eight_bit(weight, 3, -6, 448.0)))
            }),
        ]
    }
}

/// Rounded to an 8-bit float with so many bits of mantissa and this least exponent, scaled so that the
/// largest value is the type's.
fn through_eight_bit(weight: &Tensor, mantissa: i32, least: i32, largest: f64) -> Result<Tensor> {
    let wide = weight.widened()?;
    let values = wide.as_slice::<f64>()?.iter();
    let scale = values.fold(0.0_f64, |max, x| max.max(x.abs())) / largest;
    mapped(weight, |x| {
        let scaled = x / scale;
        let exponent = (scaled.abs().log2().floor() as i32).max(least);
        let step = 2_f64.powi(exponent - mantissa);
        (scaled / step).round_ties_even() * step * scale
    })
}

fn rounded<'a>(name: &str, through: &str, amounts: Vec<f32>) -> Rewrite<'a> {
    let name = name.to_owned();
    let which = name.rsplit('.').next().unwrap_or_default().to_owned();
    let rewrite = Rewrite::new(
        format!("{which} was rounded through {through}: it holds no finer values"),
        format!("with {which} known to the precision of {through} only"),
        move |subgraph| {
            let error_bound = ErrorBound::from_std(amounts.clone());
            subgraph.uncertain.insert(name.clone(), error_bound);
            Ok(())
        },
    );
    rewrite.certain(Certainty::Range)
}

fn amounts(param: &Tensor, of: impl Fn(f64) -> f64) -> Result<Vec<f32>> {
    let wide = param.widened()?;
    let values = wide.as_slice::<f64>()?.iter();
    Ok(values.map(|x| of(*x) as f32).collect())
}

/// The 8-bit type that values went through, if they are so few, and how far each may be off: half
/// the distance to its neighbours.
fn eight_bit(param: &Tensor) -> Result<Option<(&'static str, Vec<f32>)>> {
    let wide = param.widened()?;
    let mut magnitudes = BTreeSet::new();
    for value in wide.as_slice::<f64>()? {
        // Not negative: ordered as their bits are.
        magnitudes.insert(value.abs().to_bits());
        if magnitudes.len() > EIGHT_BIT {
            return Ok(None);
        }
    }
    // Few values among few elements say nothing.
    if magnitudes.len() < 8 || param.len() < 8 * magnitudes.len() {
        return Ok(None);
    }
    let sorted: Vec<f64> = magnitudes.into_iter().map(f64::from_bits).collect();
    let gap = |at: usize| {
        let below = at
            .checked_sub(1)
            .map_or(0.0, |below| sorted[at] - sorted[below]);
        let above = sorted.get(at + 1).map_or(0.0, |above| above - sorted[at]);
        below.max(above)
    };
    let finest = sorted.windows(2).filter(|pair| pair[0] > 0.0);
    let finest = finest
        .map(|pair| pair[1] / pair[0] - 1.0)
        .fold(f64::INFINITY, f64::min);
    let even = {
        let smallest = (1..sorted.len()).map(gap).fold(f64::INFINITY, f64::min);
        sorted.windows(2).all(|pair| {
            let steps = (pair[1] - pair[0]) / smallest;
            (steps - steps.round()).abs() < 0.05
        }) && finest < 0.05
    };
    // A binade of e4m3 has 8 values, the last step of which is 1/15; of e5m2 4, and 1/7.
    let kind = match finest {
        _ if even => "int8",
        finest if finest < 0.1 => "fp8 (e4m3)",
        _ => "fp8 (e5m2)",
    };
    let amounts = amounts(param, |x| {
        let at = sorted.partition_point(|magnitude| *magnitude < x.abs());
        gap(at.min(sorted.len() - 1)) / 2.0
    })?;
    Ok(Some((kind, amounts)))
}
