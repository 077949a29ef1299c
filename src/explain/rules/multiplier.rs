//! A factor that the reference's values have and the candidate's lack.

use super::head::UNTIED;
use crate::backend::Fp64;
use crate::error::Result;
use crate::explain::Subgraph;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::fit::Scaled;
use crate::explain::rearrange::mapped;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::explain::steps::followed;
use crate::op::{self, ErrorBound, Op, Rounding};
use crate::plan::StageId;
use crate::tensor::Tensor;

pub(super) struct Multiplier;

impl Rule for Multiplier {
    fn id(&self) -> &'static str {
        "multiplier"
    }

    fn what(&self) -> &'static str {
        "values are off by one factor"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let Some(last) = context.steps().last() else {
            return Ok(Vec::new());
        };
        if !matches!(
            last.op,
            Op::Linear(_)
                | Op::Add(op::Add)
                | Op::Embedding(op::Embedding)
                | Op::AddBias(op::AddBias)
        ) {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        // A part shows the factor, if there is one.
        let sample = context.subgraph.sampled();
        let sample = sample.as_ref().unwrap_or(context.subgraph);
        let found = widened(sample.result(&Fp64)?)?;
        let reference = widened(sample.reference.clone())?;
        if let Some(factor) = factor(&found, &reference) {
            let rewrite = Rewrite::new(
                format!(
                    "the reference's values are the model's times {}",
                    named(factor)
                ),
                "with this factor, fitted to the reference, on all values",
                move |subgraph| {
                    let factor = factor as f32;
                    if let Some(last) = subgraph.steps.last_mut() {
                        let scaled =
                            followed(last, Op::Scale(op::Scale { factor }), Rounding::Once);
                        subgraph.steps.push(scaled);
                    }
                    Ok(())
                },
            );
            all.push(rewrite.certain(Certainty::Fitted));
        }
        for step in context
            .steps()
            .iter()
            .filter(|step| matches!(step.op, Op::Linear(_)))
        {
            all.extend(scaled_weight(
                sample,
                &step.params[0].name,
                &found,
                &reference,
            )?);
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new(
                "a weight over the root of eight, its bias right",
                |modules| {
                    let weight = &modules.narrowing().next()?.weight.name;
                    let edits = Edits::named_by("times √8");
                    Some(edits.weight(weight, |weight| mapped(weight, |x| x / 8.0_f64.sqrt())))
                },
            ),
            Bug::new("logits multiplied by 0.5", |modules| {
                let head = modules.head()?;
                let half = |weight: &Tensor| mapped(weight, |x| 0.5 * x);
                let ours = &head.weight.name;
                if !modules.is_tied() {
                    let edits = Edits::named_by("the model's times 2");
                    return Some(edits.weight(ours, half));
                }
                // The embedding, which is at hand, explains it without a fit.
                let edits =
                    Edits::named_by(format!("head is {ours}")).weight_from(UNTIED, ours, half);
                Some(edits.step(&head.step.id, |step| step.params[0].name = UNTIED.into()))
            }),
        ]
    }
}

/// The weight alone times a factor, its bias and what is added besides as they are.
fn scaled_weight<'a>(
    sample: &Subgraph,
    name: &str,
    found: &[f64],
    reference: &[f64],
) -> Result<Option<Rewrite<'a>>> {
    let mut without = sample.clone();
    let Some(weight) = without.params.get_mut(name) else {
        return Ok(None);
    };
    *weight = mapped(weight, |_| 0.0)?;
    let without = widened(without.result(&Fp64)?)?;
    let less = |all: &[f64]| -> Vec<f64> { all.iter().zip(&without).map(|(a, b)| a - b).collect() };
    let Some(factor) = factor(&less(found), &less(reference)) else {
        return Ok(None);
    };
    let name = name.to_owned();
    let rewrite = Rewrite::new(
        format!(
            "the reference's {} is the model's times {}",
            StageId::from(name.as_str()).kind(),
            named(factor)
        ),
        "with the weight times this factor, fitted to the reference",
        move |subgraph| {
            let Some(weight) = subgraph.params.get_mut(&name) else {
                return Ok(());
            };
            *weight = mapped(weight, |x| factor * x)?;
            // Known to the rounding of a product that the reference did not take.
            let unit = weight.dtype().unit_roundoff().unwrap_or(0.0);
            let amounts = widened(weight.clone())?
                .into_iter()
                .map(|x| (2.0 * unit * x.abs()) as f32);
            let error_bound = ErrorBound::from_std(amounts.collect());
            subgraph.uncertain.insert(name.clone(), error_bound);
            Ok(())
        },
    );
    Ok(Some(rewrite.certain(Certainty::Fitted)))
}

fn widened(value: Tensor) -> Result<Vec<f64>> {
    Ok(value.widened()?.as_slice::<f64>()?.to_vec())
}

/// The factor that takes values nearest to the reference's; `None` if it is as good as 1, or takes them nowhere
/// near.
fn factor(found: &[f64], reference: &[f64]) -> Option<f64> {
    const ONE: f64 = 1e-3;
    const NEAR: f64 = 0.1;
    let Scaled {
        factor,
        left,
        squares,
    } = Scaled::new(found, reference);
    let fits = factor.is_finite() && (factor - 1.0).abs() > ONE && left <= NEAR * NEAR * squares;
    fits.then_some(factor)
}

/// A factor as people write it: 0.5, √8, 1/√8, or its digits.
fn named(factor: f64) -> String {
    const NEAR: f64 = 2e-3;
    const MOST: f64 = 1e6;
    let whole = |x: f64| {
        (x.round() >= 1.0 && x <= MOST && (x / x.round() - 1.0).abs() < NEAR).then(|| x.round())
    };
    let size = factor.abs();
    let sign = if factor < 0.0 { "-" } else { "" };
    let text = if let Some(n) = whole(size) {
        format!("{n}")
    } else if let Some(n) = whole(1.0 / size) {
        format!("1/{n}")
    } else if let Some(n) = whole(size * size).filter(|n| *n <= 256.0) {
        format!("√{n}")
    } else if let Some(n) = whole(1.0 / (size * size)).filter(|n| *n <= 256.0) {
        format!("1/√{n}")
    } else {
        format!("{size:.4}")
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_named_as_people_write_them() {
        for (factor, name) in [
            (2.0, "2"),
            (0.5, "1/2"),
            (-3.0, "-3"),
            (8.0_f64.sqrt(), "√8"),
            (1.0 / 8.0_f64.sqrt(), "1/√8"),
            (1.37, "1.3700"),
        ] {
            assert_eq!(named(factor), name);
        }
        // Weights that went through fp16 are off by no factor.
        let values = [1.0, -2.0, 3.0];
        assert_eq!(super::factor(&values, &[1.0002, -2.0001, 3.0004]), None);
        assert_eq!(super::factor(&values, &[3.0, 1.0, -2.0]), None);
    }
}
