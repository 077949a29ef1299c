//! The search for causes.

use super::catalogue::{HYPOTHESES, OBSERVATIONS};
use super::rewrite::{Certainty, Rewrite};
use super::{Cause, Context, Evidence, Explanation, Subgraph, hints};
use crate::backend::HostBackend;
use crate::error::Result;
use crate::op::Confidence;
use crate::plan::{PlanDifference, StageId};

/// Most causes that are looked for at one stage.
const CAUSES: usize = 4;
/// What a cause may leave of the difference if others are to explain the rest.
const LEFT: f64 = 0.9;
/// What it may leave if nothing explains the rest.
const LEFT_UNEXPLAINED: f64 = 1.0 / 3.0;
/// Most other findings that are named beside a cause.
const ALTERNATIVES: usize = 3;

/// How many hypotheses there are.
pub fn hypotheses() -> usize {
    HYPOTHESES.len()
}

/// Explains why a subgraph's result is not the recorded one.
///
/// Hypotheses are refuted on a sample of rows and confirmed on all. Of those that bring the
/// difference back within the budget, a definite one goes before one that is fitted to the
/// reference, and among equals the one that leaves the least difference. If none does, the one that
/// takes away most is kept, and the search goes on from there.
///
/// `own` says how the candidate's own arithmetic parts from the reference's within the subgraph, and
/// how far its result is from what was recorded; `known` are explanations of other stages of this
/// kind, whose findings are tried first; `on` is told of every hypothesis.
///
/// # Errors
/// If the subgraph cannot be run as it is.
pub fn explain(
    context: &Context<'_>,
    own: &OwnArithmetic<'_>,
    known: &[Explanation],
    backend: &HostBackend,
    confidence: Confidence,
    on: &mut dyn FnMut(),
) -> Result<Explanation> {
    let before = context.subgraph.evidence(backend, confidence)?;
    let stage = context.steps().last().map(|step| step.stage.clone());
    let mut explanation = Explanation {
        stages: stage.into_iter().collect(),
        before: before.clone(),
        causes: Vec::new(),
        complete: true,
        hints: Vec::new(),
    };
    if before.holds() {
        explanation.before = own.evidence.clone();
        explanation.causes.push(own.cause(before));
        return Ok(explanation);
    }
    let mut search = Search {
        backend,
        confidence,
        on,
    };
    let mut subgraph = context.subgraph.clone();
    let mut left = before;
    while explanation.causes.len() < CAUSES {
        let context = Context {
            subgraph: &subgraph,
            ..*context
        };
        let found = match search.recognise(&context, known, explanation.causes.len())? {
            Some(found) => Some(found),
            None => search.next(&context, &left)?,
        };
        let Some((cause, rewritten)) = found else {
            break;
        };
        left = cause.after.clone();
        explanation.causes.push(cause);
        subgraph = rewritten;
        if left.holds() {
            return Ok(explanation);
        }
    }
    explanation.complete = false;
    let before = explanation.before.relative_frobenius;
    let less = left.relative_frobenius <= LEFT_UNEXPLAINED * before;
    if !(before.is_finite() && less) {
        // Steps that lead nowhere are no causes.
        explanation.causes.clear();
        subgraph = context.subgraph.clone();
    }
    for observation in OBSERVATIONS {
        explanation.hints.extend(observation(context)?);
    }
    let heads = context.heads();
    explanation
        .hints
        .extend(hints::of(&subgraph, heads, backend)?);
    Ok(explanation)
}

/// The candidate as it was run.
pub struct OwnArithmetic<'a> {
    /// Where its steps are not the reference's, within the subgraph.
    pub plan_differences: Vec<(&'a StageId, &'a PlanDifference)>,
    /// How far its result is from what was recorded.
    pub evidence: Evidence,
}

impl OwnArithmetic<'_> {
    /// What is said where the reference's arithmetic alone brings the difference back.
    fn cause(&self, after: Evidence) -> Cause {
        let plan_differences = self
            .plan_differences
            .iter()
            .map(|(stage, plan_difference)| {
                let lacks: Vec<String> = plan_difference
                    .lacks
                    .iter()
                    .map(|name| StageId::from(name.as_str()).kind())
                    .collect();
                match lacks.is_empty() {
                    true => format!(
                        "{} is computed as {}, by the reference as {}",
                        stage.kind(),
                        plan_difference.ours,
                        plan_difference.theirs
                    ),
                    false => format!("the model lacks {}", lacks.join(", ")),
                }
            });
        let finding = match self.evidence.holds() {
            true => "noise: within rounding, where the bound in force allows less".into(),
            false if self.plan_differences.is_empty() => {
                "the difference is gone on a second run".into()
            }
            false => plan_differences.collect::<Vec<_>>().join("; "),
        };
        Cause {
            finding,
            remedy: "in the reference's arithmetic".into(),
            after,
            alternatives: Vec::new(),
        }
    }
}

struct Search<'a> {
    backend: &'a HostBackend,
    confidence: Confidence,
    on: &'a mut dyn FnMut(),
}

impl Search<'_> {
    /// A cause that explained the same kind of stage elsewhere.
    fn recognise(
        &self,
        context: &Context<'_>,
        known: &[Explanation],
        depth: usize,
    ) -> Result<Option<(Cause, Subgraph)>> {
        let findings: Vec<&Cause> = known.iter().filter_map(|e| e.causes.get(depth)).collect();
        if findings.is_empty() {
            return Ok(None);
        }
        for hypothesis in HYPOTHESES {
            for rewrite in hypothesis(context)? {
                let same = |cause: &&&Cause| cause.finding == rewrite.finding;
                let Some(cause) = findings.iter().find(same) else {
                    continue;
                };
                let Some((after, subgraph)) = self.tried(&rewrite, context.subgraph) else {
                    continue;
                };
                if after.holds() {
                    let cause = Cause {
                        after,
                        ..(*cause).clone()
                    };
                    return Ok(Some((cause, subgraph)));
                }
            }
        }
        Ok(None)
    }

    /// The cause that explains all of the difference, or most of it.
    fn next(
        &mut self,
        context: &Context<'_>,
        left: &Evidence,
    ) -> Result<Option<(Cause, Subgraph)>> {
        let sample = context.subgraph.sampled();
        let sample = sample.as_ref().unwrap_or(context.subgraph);
        let mut trials: Vec<(Rewrite<'_>, Evidence)> = Vec::new();
        for hypothesis in HYPOTHESES {
            (self.on)();
            for rewrite in hypothesis(context)? {
                // What does not fit together is no explanation.
                if let Some((evidence, _)) = self.tried(&rewrite, sample) {
                    trials.push((rewrite, evidence));
                }
            }
        }
        let by_difference = |a: &Evidence, b: &Evidence| {
            let order = a.relative_frobenius.total_cmp(&b.relative_frobenius);
            order.then(a.ratio.total_cmp(&b.ratio))
        };
        trials.sort_by(|(a, left), (b, right)| {
            let holds = right.holds().cmp(&left.holds());
            let certainty = a.certainty.cmp(&b.certainty);
            holds
                .then(certainty)
                .then_with(|| by_difference(left, right))
        });
        let holding = trials.iter().filter(|(_, evidence)| evidence.holds());
        let mut confirmed: Option<(Cause, Subgraph, Certainty)> = None;
        for (rewrite, _) in holding {
            let Some((after, subgraph)) = self.tried(rewrite, context.subgraph) else {
                continue;
            };
            match &mut confirmed {
                _ if !after.holds() => {}
                None => {
                    confirmed = Some((cause(rewrite, after), subgraph, rewrite.certainty));
                }
                Some((first, _, certainty)) => {
                    let room = first.alternatives.len() < ALTERNATIVES;
                    if room && rewrite.certainty == *certainty {
                        first.alternatives.push(rewrite.finding.clone());
                    }
                }
            }
            let full = |(first, ..): &(Cause, Subgraph, Certainty)| {
                first.alternatives.len() >= ALTERNATIVES
            };
            if confirmed.as_ref().is_some_and(full) {
                break;
            }
        }
        if let Some((cause, subgraph, _)) = confirmed {
            return Ok(Some((cause, subgraph)));
        }
        trials.retain(|(rewrite, _)| rewrite.certainty == Certainty::Definite);
        trials.sort_by(|(_, a), (_, b)| by_difference(a, b));
        let Some((rewrite, _)) = trials.first() else {
            return Ok(None);
        };
        let Some((after, subgraph)) = self.tried(rewrite, context.subgraph) else {
            return Ok(None);
        };
        let less = after.relative_frobenius < LEFT * left.relative_frobenius;
        Ok(less.then(|| (cause(rewrite, after), subgraph)))
    }

    fn tried(&self, rewrite: &Rewrite<'_>, subgraph: &Subgraph) -> Option<(Evidence, Subgraph)> {
        let rewritten = rewrite.applied(subgraph).ok()?;
        let evidence = rewritten.evidence(self.backend, self.confidence).ok()?;
        Some((evidence, rewritten))
    }
}

fn cause(rewrite: &Rewrite<'_>, after: Evidence) -> Cause {
    Cause {
        finding: rewrite.finding.clone(),
        remedy: rewrite.remedy.clone(),
        after,
        alternatives: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Cpu;
    use crate::checkpoint::{Stored, Weights};
    use crate::error::BadInput;
    use crate::op::{self, Activation, Numerics, Op, Rotary, RotaryPairs, Rounding};
    use crate::plan::{Param, Plan, Step, Variant};
    use crate::tensor::{DType, Tensor};
    use std::collections::HashMap;

    /// Ops that no model of the project's references has yet are tried on data drawn here: the
    /// reference is the right step's result.
    struct Bench {
        weights: HashMap<String, Tensor>,
    }

    impl Weights for Bench {
        fn names(&self) -> Vec<&str> {
            self.weights.keys().map(String::as_str).collect()
        }
        fn stored(&self, name: &str) -> Option<Stored> {
            self.weights.get(name).map(|tensor| Stored {
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
                file: "memory".into(),
            })
        }
        fn load(&self, name: &str) -> Result<Tensor> {
            let missing = || BadInput::new("memory", name, "nothing");
            self.weights
                .get(name)
                .cloned()
                .ok_or_else(|| missing().into())
        }
    }

    fn draw(shape: &[usize], seed: u32) -> Tensor {
        let mut state = seed;
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        });
        Tensor::from_vec(shape, values.collect::<Vec<f32>>()).unwrap()
    }

    fn step(id: &str, op: Op, inputs: &[&str], params: &[(&str, &[usize])]) -> Step {
        let product = matches!(op, Op::Linear(_));
        Step {
            id: id.into(),
            stage: id.into(),
            variant: Variant::PLAIN,
            op,
            inputs: inputs.iter().map(|input| (*input).into()).collect(),
            params: params
                .iter()
                .map(|(name, shape)| Param {
                    name: (*name).into(),
                    shape: shape.to_vec(),
                })
                .collect(),
            numerics: match product {
                true => Numerics::product(DType::F32),
                false => Numerics::elementwise(DType::F32, Rounding::EachOperation),
            },
        }
    }

    fn first_cause(
        wrong: Step,
        given: &[(&str, Tensor)],
        plan: &Plan,
        bench: &Bench,
        reference: Tensor,
    ) -> String {
        let given = given
            .iter()
            .map(|(id, value)| ((*id).into(), value.clone()));
        let params = wrong
            .params
            .iter()
            .map(|p| (p.name.clone(), bench.weights[&p.name].clone()));
        let subgraph = Subgraph::new(
            vec![wrong.clone()],
            given.collect(),
            params.collect(),
            reference,
        );
        let own = OwnArithmetic {
            plan_differences: Vec::new(),
            evidence: subgraph.evidence(&Cpu, Confidence::default()).unwrap(),
        };
        let context = Context {
            subgraph: &subgraph,
            plan,
            weights: bench,
            recorded: &|_| Ok(None),
        };
        let mut tried = 0;
        let found = explain(
            &context,
            &own,
            &[],
            &Cpu,
            Confidence::default(),
            &mut || tried += 1,
        );
        let found = found.unwrap();
        assert!(found.complete && tried == hypotheses(), "{found:?}");
        found.causes[0].finding.clone()
    }

    #[test]
    fn rotary_embeddings_are_put_right() {
        let right = Rotary {
            theta: 1e4,
            scaling: 1.0,
            offset: 0,
            dims: 8,
            pairs: RotaryPairs::Halves,
        };
        let bench = Bench {
            weights: HashMap::new(),
        };
        let x = draw(&[2, 3, 9, 8], 1);
        let of = |rotary| step("q", Op::Rotary(rotary), &["x"], &[]);
        let reference = crate::backend::Backend::run(&Cpu, &of(right), &[&x], &[]).unwrap();
        let plan = Plan::new(
            DType::F32,
            vec![step("q", Op::Rotary(right), &["tokens"], &[])],
        );
        let plan = plan.unwrap();
        let pairs = RotaryPairs::Interleaved;
        for (wrong, finding) in [
            (Rotary { pairs, ..right }, "entries half a head apart"),
            (
                Rotary {
                    theta: 5e5,
                    ..right
                },
                "rotary base is 1e4, the model's 5e5",
            ),
            (
                Rotary {
                    scaling: 4.0,
                    ..right
                },
                "divides positions by 1, the model by 4",
            ),
            (Rotary { offset: 1, ..right }, "start -1 from the model's"),
            (
                Rotary { dims: 4, ..right },
                "rotates 8 entries of a head, the model 4",
            ),
        ] {
            let given = [("x", x.clone())];
            let found = first_cause(of(wrong), &given, &plan, &bench, reference.clone());
            assert!(found.contains(finding), "{found}");
        }
    }

    #[test]
    fn gated_layers_are_put_right() {
        let bench = Bench {
            weights: HashMap::new(),
        };
        let (gate, up) = (draw(&[1, 9, 16], 1), draw(&[1, 9, 16], 2));
        let silu = Op::Gate(op::Gate {
            activation: Activation::Silu,
        });
        let right = step("act", silu.clone(), &["gate", "up"], &[]);
        let reference = crate::backend::Backend::run(&Cpu, &right, &[&gate, &up], &[]).unwrap();
        let plan = Plan::new(
            DType::F32,
            vec![step("act", silu.clone(), &["tokens"; 2], &[])],
        );
        let plan = plan.unwrap();
        let gelu = Op::Gate(op::Gate {
            activation: Activation::Gelu,
        });
        for (wrong, finding) in [
            (
                step("act", silu, &["up", "gate"], &[]),
                "gate and up are swapped",
            ),
            (
                step("act", gelu, &["gate", "up"], &[]),
                "gate is silu, not gelu (erf)",
            ),
        ] {
            let given = [("gate", gate.clone()), ("up", up.clone())];
            let found = first_cause(wrong, &given, &plan, &bench, reference.clone());
            assert!(found.contains(finding), "{found}");
        }
    }

    #[test]
    fn shards_of_gated_layers_are_sorted() {
        // Right: gate and up, [8, 6] each; rank by rank and cut in the middle, each holds both.
        let (gate, up) = (draw(&[8, 6], 1), draw(&[8, 6], 2));
        let halves = |whole: &Tensor| whole.clone().reshaped(&[2, 24]).unwrap();
        let by_rank = Tensor::concat(&[halves(&gate), halves(&up)], 1).unwrap();
        let fused = by_rank.reshaped(&[2, 48]).unwrap();
        let half = |index: usize| {
            let values = fused.as_slice::<f32>().unwrap()[index * 48..(index + 1) * 48].to_vec();
            Tensor::from_vec(&[8, 6], values).unwrap()
        };
        let names = ["gate.weight", "up.weight"];
        let bench = Bench {
            weights: HashMap::from([(names[0].into(), half(0)), (names[1].into(), half(1))]),
        };
        let op = Op::Linear(op::Linear {
            bias: false,
            partials: 1,
        });
        let linear = |id, name, input| step(id, op.clone(), &[input], &[(name, &[8, 6])]);
        let plan = Plan::new(
            DType::F32,
            vec![
                linear("gate", names[0], "tokens"),
                linear("up", names[1], "tokens"),
                step(
                    "act",
                    Op::Gate(op::Gate {
                        activation: Activation::Silu,
                    }),
                    &["gate", "up"],
                    &[],
                ),
            ],
        );
        let plan = plan.unwrap();
        let x = draw(&[1, 9, 6], 3);
        for (id, name, right) in [("gate", names[0], &gate), ("up", names[1], &up)] {
            let wrong = linear(id, name, "x");
            let reference = crate::backend::Backend::run(&Cpu, &wrong, &[&x], &[right]).unwrap();
            let found = first_cause(wrong, &[("x", x.clone())], &plan, &bench, reference);
            assert!(
                found.contains("2 ranks are concatenated rank by rank"),
                "{found}"
            );
        }
    }
}
