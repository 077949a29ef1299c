//! ALiBi: none, scaled with the product, by distance, or with slopes of another series or rank.

use crate::error::Result;
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::op::{self, AlibiForm, Op};
use crate::plan::Step;

pub(super) fn rewrites<'a>(context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
    let mut all = Vec::new();
    for step in context.steps() {
        let Op::AttentionScores(op::AttentionScores {
            product_scale,
            alibi_scale,
            alibi_slopes,
            alibi_form,
        }) = &step.op
        else {
            continue;
        };
        let unscaled = match *alibi_scale == 0.0 {
            true => "adds an ALiBi bias, the model does not",
            false => "adds the ALiBi bias unscaled",
        };
        let (product_scale, heads) = (*product_scale, alibi_slopes.len());
        for (scale, what) in [
            (0.0, "has no ALiBi bias".to_owned()),
            (1.0, unscaled.into()),
            (
                alibi_scale * product_scale,
                "scales the ALiBi bias with the product".into(),
            ),
            (
                -alibi_scale,
                "has the ALiBi bias with the other sign".into(),
            ),
        ] {
            if scale != *alibi_scale {
                let set = move |step: &mut Step| {
                    if let Op::AttentionScores(op::AttentionScores { alibi_scale, .. }) =
                        &mut step.op
                    {
                        *alibi_scale = scale;
                    }
                };
                let finding = format!("the reference {what}");
                all.push(Rewrite::of_step(&step.id, finding, "with that", set));
            }
        }
        let other = match alibi_form {
            AlibiForm::KeyPosition => (AlibiForm::Distance, "distance"),
            AlibiForm::Distance => (AlibiForm::KeyPosition, "key position"),
        };
        let set = move |step: &mut Step| {
            if let Op::AttentionScores(op::AttentionScores { alibi_form, .. }) = &mut step.op {
                *alibi_form = other.0;
            }
        };
        let finding = format!("the reference's ALiBi bias goes by {}", other.1);
        all.push(Rewrite::of_step(&step.id, finding, "with that", set));
        for (slopes, what) in series(alibi_slopes, heads) {
            let set = move |step: &mut Step| {
                if let Op::AttentionScores(op::AttentionScores { alibi_slopes, .. }) = &mut step.op
                {
                    alibi_slopes.clone_from(&slopes);
                }
            };
            let finding = format!("the reference's ALiBi slopes are {what}");
            all.push(Rewrite::of_step(&step.id, finding, "with those", set));
        }
    }
    Ok(all)
}

/// Series that are mistaken for the right one.
fn series(ours: &[f32], heads: usize) -> Vec<(Vec<f32>, String)> {
    let geometric = |base: f64, first: i32| -> Vec<f32> {
        let powers = (0..heads).map(|head| base.powi(head as i32 + first) as f32);
        powers.collect()
    };
    let n = heads as f64;
    let mut all = vec![
        (
            ours.iter().rev().copied().collect(),
            "in reverse order of heads".to_owned(),
        ),
        (
            geometric(2_f64.powf(-8.0 / n), 1),
            "2^(−8(i+1)/heads)".into(),
        ),
        (
            geometric(2_f64.powf(-8.0 / n), 0),
            "2^(−8i/heads): one head off".into(),
        ),
        (geometric(0.5, 1), "2^−(i+1)".into()),
        (
            ours.iter().map(|slope| 2.0 * slope).collect(),
            "twice the model's".into(),
        ),
        (
            ours.iter().map(|slope| 0.5 * slope).collect(),
            "half the model's".into(),
        ),
    ];
    for ranks in [2, 4, 8] {
        if heads.is_multiple_of(ranks) && heads > ranks {
            let local = heads / ranks;
            let first = ours[..local].iter().cycle().take(heads).copied().collect();
            all.push((
                first,
                format!("those of the first of {ranks} ranks on every rank"),
            ));
        }
    }
    all.retain(|(slopes, _)| slopes != ours);
    all
}
