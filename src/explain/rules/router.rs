//! Routers: which experts they choose, and by what they weight them.

use crate::backend::Fp64;
use crate::error::Result;
use crate::explain::bug::{Bug, Edits};
use crate::explain::context::Context;
use crate::explain::fit::Scaled;
use crate::explain::rewrite::{Certainty, Rewrite};
use crate::explain::rule::Rule;
use crate::op::{Op, Route, RouterGroups, RouterScores, RouterWeights};
use crate::plan::{Param, Step};

pub(super) struct Router;

impl Rule for Router {
    fn id(&self) -> &'static str {
        "router"
    }

    fn what(&self) -> &'static str {
        "a router chooses experts by other scores, without their bias or groups, or weights them otherwise"
    }

    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>> {
        let mut all = Vec::new();
        for step in context.steps() {
            match &step.op {
                Op::Route(ours) => {
                    biases(context, step, *ours, &mut all)?;
                    choices(step, *ours, &mut all);
                }
                Op::RouterWeights(ours) => weights(context, step, *ours, &mut all)?,
                _ => {}
            }
        }
        Ok(all)
    }

    fn bugs(&self) -> Vec<Bug> {
        vec![
            Bug::new("bias of experts left out", |modules| {
                let has = |step: &Step| matches!(&step.op, Op::Route(route) if route.bias);
                modules.steps().iter().find(|step| has(step))?;
                let edits = Edits::named_by("adds a bias to the scores");
                Some(edits.steps(|step| {
                    if let Op::Route(route) = &mut step.op {
                        route.bias = false;
                        step.params.clear();
                    }
                }))
            }),
            Bug::new("groups of experts left out", |modules| {
                let groups = modules.steps().iter().find_map(|step| match &step.op {
                    Op::Route(route) => route.groups,
                    _ => None,
                })?;
                let edits = Edits::named_by(format!(
                    "chooses in {} of {} groups",
                    groups.chosen, groups.count
                ));
                Some(edits.steps(|step| {
                    if let Op::Route(route) = &mut step.op {
                        route.groups = None;
                    }
                }))
            }),
            Bug::new("groups of experts by their best one", |modules| {
                let groups = modules.steps().iter().find_map(|step| match &step.op {
                    Op::Route(route) => route.groups.filter(|groups| groups.best > 1),
                    _ => None,
                })?;
                let edits = Edits::named_by(format!("by their {} best", groups.best));
                Some(edits.steps(|step| {
                    if let Op::Route(route) = &mut step.op
                        && let Some(groups) = &mut route.groups
                    {
                        groups.best = 1;
                    }
                }))
            }),
            Bug::new("weights of experts not normalized", |modules| {
                let is_normalized = |step: &Step| matches!(&step.op, Op::RouterWeights(weights) if weights.normalized);
                modules.steps().iter().find(|step| is_normalized(step))?;
                let edits = Edits::named_by("normalizes the weights");
                Some(edits.steps(|step| {
                    if let Op::RouterWeights(weights) = &mut step.op {
                        weights.normalized = false;
                        weights.of_chosen = false;
                    }
                }))
            }),
            Bug::new("scaling of experts lost", |modules| {
                let scaling = modules.steps().iter().find_map(|step| match &step.op {
                    Op::RouterWeights(weights) if weights.scaling != 1.0 => Some(weights.scaling),
                    _ => None,
                })?;
                let edits = Edits::named_by(format!("multiplies them by {scaling}"));
                Some(edits.steps(|step| {
                    if let Op::RouterWeights(weights) = &mut step.op {
                        weights.scaling = 1.0;
                    }
                }))
            }),
            Bug::new("weights of experts by another function", |modules| {
                let theirs = modules.steps().iter().find_map(|step| match &step.op {
                    Op::RouterWeights(weights) => Some(weights.scores),
                    _ => None,
                })?;
                let edits = Edits::named_by(format!("weights are by the {theirs}"));
                Some(edits.steps(|step| {
                    if let Op::RouterWeights(weights) = &mut step.op {
                        weights.scores = other(weights.scores);
                        weights.of_chosen = false;
                    }
                }))
            }),
        ]
    }
}

fn other(scores: RouterScores) -> RouterScores {
    match scores {
        RouterScores::Softmax => RouterScores::Sigmoid,
        RouterScores::Sigmoid => RouterScores::Softmax,
    }
}

/// With the correction bias, or without it.
fn biases<'a>(
    context: &Context<'a>,
    step: &Step,
    ours: Route,
    all: &mut Vec<Rewrite<'a>>,
) -> Result<()> {
    if ours.bias {
        let without = Rewrite::of_step(
            &step.id,
            "the reference adds no bias to the scores",
            "without the bias",
            |step| {
                if let Op::Route(route) = &mut step.op {
                    route.bias = false;
                    step.params.clear();
                }
            },
        );
        all.push(without);
        return Ok(());
    }
    let name = format!("{}.e_score_correction_bias", step.inputs[0]);
    let Some(stored) = context.weights.stored(&name) else {
        return Ok(());
    };
    let bias = context.weights.load(&name)?;
    let id = step.id.clone();
    all.push(Rewrite::new(
        "the reference adds a bias to the scores for the choice",
        format!("with {name}"),
        move |subgraph| {
            subgraph.params.insert(name.clone(), bias.clone());
            if let Some(step) = subgraph.steps.iter_mut().find(|step| step.id == id)
                && let Op::Route(route) = &mut step.op
            {
                route.bias = true;
                step.params = vec![Param {
                    name: name.clone(),
                    shape: stored.shape.clone(),
                }];
            }
            Ok(())
        },
    ));
    Ok(())
}

/// Other scores, and other groups.
fn choices<'a>(step: &Step, ours: Route, all: &mut Vec<Rewrite<'a>>) {
    let mut set = |finding: String, theirs: Route| {
        let remedy = format!("with the {theirs}");
        let edit = move |step: &mut Step| {
            if let Op::Route(route) = &mut step.op {
                *route = theirs;
            }
        };
        all.push(Rewrite::of_step(&step.id, finding, remedy, edit));
    };
    let theirs = other(ours.scores);
    set(
        format!("the reference chooses by the {theirs}"),
        Route {
            scores: theirs,
            ..ours
        },
    );
    let bests = |count: usize| [1, 2, (ours.chosen / count).max(1), ours.chosen];
    match ours.groups {
        Some(groups) => {
            set(
                "the reference chooses among all experts".into(),
                Route {
                    groups: None,
                    ..ours
                },
            );
            let mut bests: Vec<usize> = bests(groups.chosen).to_vec();
            bests.sort_unstable();
            bests.dedup();
            for best in bests.into_iter().filter(|best| *best != groups.best) {
                set(
                    format!("the reference chooses groups by their {best} best experts"),
                    Route {
                        groups: Some(RouterGroups { best, ..groups }),
                        ..ours
                    },
                );
            }
        }
        None => {
            for count in [2, 4, 8, 16] {
                for chosen in 1..count {
                    let mut bests: Vec<usize> = bests(chosen).to_vec();
                    bests.sort_unstable();
                    bests.dedup();
                    for best in bests {
                        let groups = RouterGroups {
                            count,
                            chosen,
                            best,
                        };
                        let finding = format!(
                            "the reference chooses in {chosen} of {count} groups, by their {best} best experts"
                        );
                        set(
                            finding,
                            Route {
                                groups: Some(groups),
                                ..ours
                            },
                        );
                    }
                }
            }
        }
    }
}

/// Other weights of the same choice.
fn weights<'a>(
    context: &Context<'a>,
    step: &Step,
    ours: RouterWeights,
    all: &mut Vec<Rewrite<'a>>,
) -> Result<()> {
    let mut set = |finding: String, theirs: RouterWeights, certainty| {
        let remedy = format!("with the {theirs}");
        let edit = move |step: &mut Step| {
            if let Op::RouterWeights(weights) = &mut step.op {
                *weights = theirs;
            }
        };
        let rewrite = Rewrite::of_step(&step.id, finding, remedy, edit);
        all.push(rewrite.certain(certainty));
    };
    let is_normalized = ours.normalized || ours.of_chosen;
    let finding = match is_normalized {
        true => "the reference does not divide the weights by their sum",
        false => "the reference normalizes the weights of the chosen experts",
    };
    set(
        finding.into(),
        RouterWeights {
            normalized: !is_normalized,
            of_chosen: false,
            ..ours
        },
        Certainty::Definite,
    );
    let theirs = other(ours.scores);
    set(
        format!("the reference's weights are by the {theirs}"),
        RouterWeights {
            scores: theirs,
            of_chosen: false,
            ..ours
        },
        Certainty::Definite,
    );
    if context
        .steps()
        .last()
        .is_some_and(|last| last.id == step.id)
    {
        let found = context.subgraph.result(&Fp64)?.widened()?;
        let reference = context.subgraph.reference.widened()?;
        let Scaled { factor, .. } = Scaled::new(found.as_slice()?, reference.as_slice()?);
        // As few digits as configs have.
        let factor = (factor * f64::from(ours.scaling) * 1e3).round() / 1e3;
        if factor.is_finite() && factor > 0.0 && factor as f32 != ours.scaling {
            set(
                format!("the reference multiplies them by {factor}"),
                RouterWeights {
                    scaling: factor as f32,
                    ..ours
                },
                Certainty::Fitted,
            );
        }
    }
    Ok(())
}
