//! ALiBi: none, scaled with the product, by distance, or with slopes of another series or rank.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, AlibiForm, Op};
use crate::plan::Step;

pub(super) struct Alibi;

impl Rule for Alibi {
    fn id(&self) -> &'static str {
        "alibi"
    }

    fn what(&self) -> &'static str {
        "ALiBi is left out, scaled with the product, goes by distance, or has slopes of another series or rank"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let Op::AttentionScores(scores) = &step.op else {
                continue;
            };
            let Some(ours) = &scores.alibi else {
                continue;
            };
            let unscaled = if ours.scale == 0.0 {
                "adds an ALiBi bias, the model does not"
            } else {
                "adds the ALiBi bias unscaled"
            };
            for (scale, what, remedy) in [
                (0.0, "has no ALiBi bias", "without the ALiBi bias"),
                (1.0, unscaled, "with the ALiBi bias unscaled"),
                (
                    ours.scale * scores.product_scale,
                    "scales the ALiBi bias with the product",
                    "with the ALiBi bias scaled as the product is",
                ),
                (
                    -ours.scale,
                    "has the ALiBi bias with the other sign",
                    "with the sign of the ALiBi bias changed",
                ),
            ] {
                if scale != ours.scale {
                    let set = in_alibi(move |alibi| alibi.scale = scale);
                    let finding = format!("the reference {what}");
                    all.push(Rewrite::of_step(&step.id, finding, remedy, set));
                }
            }
            let other = match ours.form {
                AlibiForm::KeyPosition => (AlibiForm::Distance, "distance"),
                AlibiForm::Distance => (AlibiForm::KeyPosition, "key position"),
            };
            let set = in_alibi(move |alibi| alibi.form = other.0);
            let finding = format!("the reference's ALiBi bias goes by {}", other.1);
            let remedy = format!("with the ALiBi bias by {}", other.1);
            all.push(Rewrite::of_step(&step.id, finding, remedy, set));
            for (slopes, what) in series(&ours.slopes) {
                let set = in_alibi(move |alibi| alibi.slopes.clone_from(&slopes));
                let finding = format!("the reference's ALiBi slopes are {what}");
                let remedy = format!("with the slopes {}", what.trim_start_matches("those "));
                all.push(Rewrite::of_step(&step.id, finding, remedy, set));
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("ALiBi left out", |_| {
                let words = "adds an ALiBi bias, the model does not";
                Some(with_alibi(words, |scale, _| *scale = 0.0))
            }),
            Bug::new("ALiBi scaled with the product", |modules| {
                let root = (modules.queries().next()?.head_dim as f32).sqrt();
                let words = "adds the ALiBi bias unscaled";
                Some(with_alibi(words, move |scale, _| *scale *= 1.0 / root))
            }),
            Bug::new("ALiBi slopes in reverse order", |_| {
                let words = "in reverse order of heads";
                Some(with_alibi(words, |_, slopes| slopes.reverse()))
            }),
        ]
    }
}

/// A change of the scale and the slopes of all scores that have an ALiBi bias.
fn with_alibi(
    words: &str,
    edit: impl Fn(&mut f32, &mut Vec<f32>) + Send + Sync + 'static,
) -> Edits {
    Edits::named_by(words).steps(in_alibi(move |alibi| {
        if alibi.scale != 0.0 {
            edit(&mut alibi.scale, &mut alibi.slopes);
        }
    }))
}

/// A change of the ALiBi bias of a step that has one.
fn in_alibi(edit: impl Fn(&mut op::Alibi)) -> impl Fn(&mut Step) {
    move |step| {
        if let Op::AttentionScores(scores) = &mut step.op
            && let Some(alibi) = &mut scores.alibi
        {
            edit(alibi);
        }
    }
}

/// Series that are mistaken for the right one.
fn series(ours: &[f32]) -> Vec<(Vec<f32>, String)> {
    let heads = ours.len();
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
