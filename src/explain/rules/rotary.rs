//! Rotary embeddings: pairs interleaved or in halves, another base, scaling, offset or extent, or none.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits, part};
use crate::explain::context::Context;
use crate::explain::modules::Modules;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::op::{self, Op, RotaryPairs};
use crate::plan::Step;

/// Bases in use.
const THETAS: [f64; 6] = [1e4, 5e5, 1e6, 1e5, 2.5e5, 1e7];
/// Linear scalings in use.
const SCALINGS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];

pub(super) struct Rotary;

impl Rule for Rotary {
    fn id(&self) -> &'static str {
        "rotary"
    }

    fn what(&self) -> &'static str {
        "rotary embeddings pair other entries, have another base, scaling, offset or extent, or are left out"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            let Op::Rotary(ours) = step.op else {
                continue;
            };
            for (theirs, finding, remedy) in variants(ours) {
                if theirs != ours {
                    let set = move |step: &mut Step| step.op = Op::Rotary(theirs);
                    all.push(Rewrite::of_step(&step.id, finding, remedy, set));
                }
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("rotary pairs of another kind", |modules| {
                let (pairs, _) = other_pairs(rotary(modules)?.pairs);
                let (_, right) = other_pairs(pairs);
                let words = format!("rotates {right} together");
                Some(rotated(words, move |rotary| rotary.pairs = pairs))
            }),
            Bug::new("rotary base 3e3", |modules| {
                let words = format!("base is {:e}, the model's 3e3", rotary(modules)?.theta);
                Some(rotated(words, |rotary| rotary.theta = 3e3))
            }),
            Bug::new("rotary positions divided by 3", |modules| {
                let words = format!("by {}, the model by 3", rotary(modules)?.scaling);
                Some(rotated(words, |rotary| rotary.scaling = 3.0))
            }),
            Bug::new("rotary positions from 1", |_| {
                let words = "positions start -1 from the model's";
                Some(rotated(words, |rotary| rotary.offset += 1))
            }),
            Bug::new("half of the rotated entries", |modules| {
                let dims = rotary(modules)?.dims;
                let half = part(dims, 4)? * 2;
                let words = format!("rotates {dims} entries of a head, the model {half}");
                Some(rotated(words, move |rotary| rotary.dims = half))
            }),
        ]
    }
}

/// What a model rotates.
fn rotary(modules: Modules<'_>) -> Option<op::Rotary> {
    modules.steps().iter().find_map(|step| match step.op {
        Op::Rotary(rotary) => Some(rotary),
        _ => None,
    })
}

fn rotated(
    words: impl Into<String>,
    edit: impl Fn(&mut op::Rotary) + Send + Sync + 'static,
) -> Edits {
    Edits::named_by(words).steps(move |step| {
        if let Op::Rotary(rotary) = &mut step.op {
            edit(rotary);
        }
    })
}

/// The other way to pair entries, and what it pairs.
fn other_pairs(ours: RotaryPairs) -> (RotaryPairs, &'static str) {
    match ours {
        RotaryPairs::Halves => (RotaryPairs::Interleaved, "neighbours (interleaved)"),
        RotaryPairs::Interleaved => (RotaryPairs::Halves, "entries half a head apart"),
    }
}

/// What may be rotated in place of `ours`: with the finding and the remedy.
fn variants(ours: op::Rotary) -> Vec<(op::Rotary, String, String)> {
    let (pairs, how) = other_pairs(ours.pairs);
    let mut all = vec![
        (
            op::Rotary { pairs, ..ours },
            format!("the reference rotates {how} together"),
            format!("with {how} rotated together"),
        ),
        (
            op::Rotary { dims: 0, ..ours },
            "the reference rotates nothing here".into(),
            "without a rotation".into(),
        ),
    ];
    all.extend(THETAS.map(|theta| {
        let ours_is = ours.theta;
        (
            op::Rotary { theta, ..ours },
            format!("the reference's rotary base is {theta:e}, the model's {ours_is:e}"),
            format!("with a rotary base of {theta:e}"),
        )
    }));
    all.extend(SCALINGS.map(|scaling| {
        let ours_is = ours.scaling;
        (
            op::Rotary { scaling, ..ours },
            format!("the reference divides positions by {scaling}, the model by {ours_is}"),
            format!("with positions divided by {scaling}"),
        )
    }));
    all.extend([-1, 1].map(|by| {
        let offset = ours.offset + by;
        (
            op::Rotary { offset, ..ours },
            format!("the reference's positions start {by:+} from the model's"),
            format!("with positions from {offset}"),
        )
    }));
    all.extend([ours.dims / 4, ours.dims / 2, 2 * ours.dims].map(|dims| {
        let (dims, ours_is) = (dims - dims % 2, ours.dims);
        (
            op::Rotary { dims, ..ours },
            format!("the reference rotates {dims} entries of a head, the model {ours_is}"),
            format!("with {dims} entries of a head rotated"),
        )
    }));
    all
}
