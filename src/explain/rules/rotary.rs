//! Rotary embeddings: pairs interleaved or in halves, another base, scaling, offset or extent, or none.

use crate::error::Result;
use crate::explain::bug::{Bug, Edits, part};
use crate::explain::context::Context;
use crate::explain::modules::Modules;
use crate::explain::rewrite::Rewrite;
use crate::explain::rule::Rule;
use crate::explain::subgraph::Subgraph;
use crate::op::{self, Frequencies, Op, RopeScaling, RotaryPairs, RotaryTable};
use crate::plan::Step;

/// Bases in use.
const THETAS: [f64; 6] = [1e4, 5e5, 1e6, 1e5, 2.5e5, 1e7];
/// Linear scalings in use.
const SCALINGS: [f64; 4] = [2.0, 4.0, 8.0, 16.0];

/// Factors of Llama 3's scaling in use (3.1, 3.2), all of 8192 positions.
const LLAMA3: [f64; 2] = [8.0, 32.0];

pub(super) struct Rotary;

impl Rule for Rotary {
    fn id(&self) -> &'static str {
        "rotary"
    }

    fn what(&self) -> &'static str {
        "rotary embeddings pair other entries, have another base, scaling, offset or extent, or are left out"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let tables = context.steps().iter().filter_map(table_of);
        let rotations = context.steps().iter().filter_map(rotation_of);
        let mut all = Vec::new();
        if let Some(ours) = tables.into_iter().next() {
            all.extend(of_tables(ours));
        }
        if let Some(ours) = rotations.into_iter().next() {
            all.extend(of_rotations(ours));
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("rotary pairs of another kind", |modules| {
                let (pairs, _) = other_pairs(rotation(modules)?.pairs);
                let (_, right) = other_pairs(pairs);
                let edits = Edits::named_by(format!("rotates {right} together"));
                Some(edits.steps(move |step| set_pairs(step, pairs)))
            }),
            Bug::new("rotary base 3e3", |modules| {
                let ours = table(modules)?.frequencies.theta;
                let words = format!("base is {ours:e}, the model's 3e3");
                Some(of_angles(words, |table| table.frequencies.theta = 3e3))
            }),
            Bug::new("rotary positions divided by 3", |modules| {
                let ours = table(modules)?.frequencies.scaling;
                let words = format!("rotary scaling is {ours}, the model's linear (factor 3)");
                ours.is_none().then(|| {
                    of_angles(words, |table| {
                        table.frequencies.scaling = RopeScaling::Linear { factor: 3.0 };
                    })
                })
            }),
            Bug::new("rotary scaling lost", |modules| {
                let ours = table(modules)?.frequencies.scaling;
                let words = format!("rotary scaling is {ours}, the model's none");
                let lost = || {
                    of_angles(words, |table| {
                        table.frequencies.scaling = RopeScaling::None;
                    })
                };
                (!ours.is_none()).then(lost)
            }),
            Bug::new("rotary positions from 1", |modules| {
                table(modules)?;
                let words = "positions start -1 from the model's";
                Some(of_angles(words, |table| table.offset += 1))
            }),
            Bug::new("half of the rotated entries", |modules| {
                let dims = rotation(modules)?.dims;
                let half = part(dims, 4)? * 2;
                let words = format!("rotates {dims} entries of a head, the model {half}");
                Some(Edits::named_by(words).steps(move |step| set_dims(step, half)))
            }),
        ]
    }
}

fn table_of(step: &Step) -> Option<RotaryTable> {
    match step.op {
        Op::RotaryTable(table) => Some(table),
        _ => None,
    }
}

fn rotation_of(step: &Step) -> Option<op::Rotary> {
    match step.op {
        Op::Rotary(rotary) => Some(rotary),
        _ => None,
    }
}

/// The angles of a model.
fn table(modules: Modules<'_>) -> Option<RotaryTable> {
    modules.steps().iter().find_map(table_of)
}

/// What a model rotates.
fn rotation(modules: Modules<'_>) -> Option<op::Rotary> {
    modules.steps().iter().find_map(rotation_of)
}

fn of_angles(
    words: impl Into<String>,
    edit: impl Fn(&mut RotaryTable) + Send + Sync + 'static,
) -> Edits {
    Edits::named_by(words).steps(move |step| {
        if let Op::RotaryTable(table) = &mut step.op {
            edit(table);
        }
    })
}

fn set_pairs(step: &mut Step, pairs: RotaryPairs) {
    if let Op::Rotary(rotary) = &mut step.op {
        rotary.pairs = pairs;
    }
}

fn set_dims(step: &mut Step, dims: usize) {
    match &mut step.op {
        Op::Rotary(rotary) => rotary.dims = dims,
        Op::RotaryTable(table) => table.frequencies.dims = dims,
        _ => {}
    }
}

/// The other way to pair entries, and what it pairs.
fn other_pairs(ours: RotaryPairs) -> (RotaryPairs, &'static str) {
    match ours {
        RotaryPairs::Halves => (RotaryPairs::Interleaved, "neighbours (interleaved)"),
        RotaryPairs::Interleaved => (RotaryPairs::Halves, "entries half a head apart"),
    }
}

/// A rewrite of every step that it has anything to do with.
fn rewrite<'a>(finding: String, remedy: String, edit: impl Fn(&mut Step) + 'a) -> Rewrite<'a> {
    Rewrite::new(finding, remedy, move |subgraph: &mut Subgraph| {
        subgraph.steps.iter_mut().for_each(&edit);
        Ok(())
    })
}

/// What may be rotated in place of `ours`.
fn of_rotations<'a>(ours: op::Rotary) -> Vec<Rewrite<'a>> {
    let (pairs, how) = other_pairs(ours.pairs);
    let mut all = vec![
        rewrite(
            format!("the reference rotates {how} together"),
            format!("with {how} rotated together"),
            move |step| set_pairs(step, pairs),
        ),
        rewrite(
            "the reference rotates nothing here".into(),
            "without a rotation".into(),
            |step| {
                if let Op::Rotary(_) = step.op {
                    step.op = op::Scale { factor: 1.0 }.into();
                    step.inputs.truncate(1);
                }
            },
        ),
    ];
    let extents = [ours.dims / 4, ours.dims / 2, 2 * ours.dims].map(|dims| dims - dims % 2);
    for dims in extents.into_iter().filter(|dims| *dims > 0) {
        let ours_is = ours.dims;
        all.push(rewrite(
            format!("the reference rotates {dims} entries of a head, the model {ours_is}"),
            format!("with {dims} entries of a head rotated"),
            move |step| set_dims(step, dims),
        ));
    }
    all
}

/// Other angles than `ours`.
fn of_tables<'a>(ours: RotaryTable) -> Vec<Rewrite<'a>> {
    let Frequencies { theta, scaling, .. } = ours.frequencies;
    let mut all = Vec::new();
    let mut push = |theirs: RotaryTable, finding: String, remedy: String| {
        let set = move |step: &mut Step| {
            if let Op::RotaryTable(table) = &mut step.op {
                table.frequencies = theirs.frequencies;
                table.offset = theirs.offset;
            }
        };
        if theirs != ours {
            all.push(rewrite(finding, remedy, set));
        }
    };
    let with = |frequencies| RotaryTable {
        frequencies,
        ..ours
    };
    for other in THETAS {
        push(
            with(Frequencies {
                theta: other,
                ..ours.frequencies
            }),
            format!("the reference's rotary base is {other:e}, the model's {theta:e}"),
            format!("with a rotary base of {other:e}"),
        );
    }
    let linear = SCALINGS.map(|factor| RopeScaling::Linear { factor });
    let llama3 = LLAMA3.map(|factor| RopeScaling::Llama3 {
        factor,
        low: 1.0,
        high: 4.0,
        positions: 8192,
    });
    let none = [RopeScaling::None].into_iter();
    for other in none.chain(linear).chain(llama3) {
        push(
            with(Frequencies {
                scaling: other,
                ..ours.frequencies
            }),
            format!("the reference's rotary scaling is {other}, the model's {scaling}"),
            format!("with rotary scaling {other}"),
        );
    }
    for by in [-1, 1] {
        let offset = ours.offset + by;
        push(
            RotaryTable { offset, ..ours },
            format!("the reference's positions start {by:+} from the model's"),
            format!("with positions from {offset}"),
        );
    }
    all
}
