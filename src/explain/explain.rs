//! The search for causes.

use super::rewrite::{Certainty, Rewrite};
use super::rules::{RULES, other_weights};
use super::{Cause, Context, Evidence, Explanation, Rule, Subgraph, hints};
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

/// Every rule, in the order of their ids.
pub fn rules() -> &'static [&'static dyn Rule] {
    RULES
}

/// Explains why a subgraph's result is not the recorded one.
///
/// Hypotheses are refuted on a sample of rows and confirmed on all. Of those that bring the
/// difference back within the budget, a definite one goes before one that is fitted to the
/// reference, and among equals the one that leaves the least difference. If none does, the one that
/// takes away most is kept, and the search goes on from there.
///
/// `own` says how the candidate's own arithmetic differs from the reference's within the subgraph, and
/// how far its result is from what was recorded; `known` are explanations of other stages of this
/// kind, whose findings are tried first; `on` is told of every rule.
///
/// # Errors
/// If the subgraph cannot be run as it is, or a weight or recorded value that a rule asks for cannot
/// be read.
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
        untried: Vec::new(),
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
    explanation.hints = hints::of(context, &subgraph, backend)?;
    if !explanation.causes.is_empty() {
        return Ok(explanation);
    }
    let duplicates = other_weights::duplicates(context)?;
    if !duplicates.is_empty() {
        // Its own weights are nowhere in the model: there is nothing to confirm it with.
        explanation.causes.push(Cause {
            rule: Some(other_weights::ID),
            finding: duplicates.join("; "),
            remedy: "what it should be is not in the model, so that nothing can be tried".into(),
            after: explanation.before.clone(),
            alternatives: Vec::new(),
            exchanged: None,
            about: Vec::new(),
        });
    }
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
                if lacks.is_empty() {
                    format!(
                        "{} is computed as {}, by the reference as {}",
                        stage.kind(),
                        plan_difference.ours,
                        plan_difference.theirs
                    )
                } else {
                    format!("the model lacks {}", lacks.join(", "))
                }
            });
        let finding = if self.evidence.holds() {
            "noise: within rounding, but the tolerance allows less".into()
        } else if self.plan_differences.is_empty() {
            "the difference is gone on a second run".into()
        } else {
            plan_differences.collect::<Vec<_>>().join("; ")
        };
        Cause {
            rule: None,
            finding,
            remedy: "in the reference's arithmetic".into(),
            after,
            alternatives: Vec::new(),
            exchanged: None,
            about: Vec::new(),
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
        for rule in RULES {
            for rewrite in rule.rewrites(context)? {
                let same = |cause: &&&Cause| cause.finding == rewrite.finding;
                let Some(cause) = findings.iter().find(same) else {
                    continue;
                };
                let Some((after, subgraph)) = self.tried(&rewrite, context.subgraph)? else {
                    continue;
                };
                if after.holds() {
                    let cause = Cause {
                        after,
                        exchanged: rewrite.exchanged.clone(),
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
        let mut trials: Vec<Trial<'_>> = Vec::new();
        for rule in RULES {
            (self.on)();
            for rewrite in rule.rewrites(context)? {
                if let Some((evidence, _)) = self.tried(&rewrite, sample)? {
                    trials.push(Trial {
                        rule: rule.id(),
                        rewrite,
                        evidence,
                    });
                }
            }
        }
        let by_difference = |a: &Evidence, b: &Evidence| {
            let order = a.relative_frobenius.total_cmp(&b.relative_frobenius);
            order.then(a.ratio.total_cmp(&b.ratio))
        };
        trials.sort_by(|a, b| {
            let holds = b.evidence.holds().cmp(&a.evidence.holds());
            let certainty = a.rewrite.certainty.cmp(&b.rewrite.certainty);
            holds
                .then(certainty)
                .then_with(|| by_difference(&a.evidence, &b.evidence))
        });
        let holding = trials.iter().filter(|trial| trial.evidence.holds());
        let mut confirmed: Option<(Cause, Subgraph, Certainty)> = None;
        for trial in holding {
            let rewrite = &trial.rewrite;
            let Some((after, subgraph)) = self.tried(rewrite, context.subgraph)? else {
                continue;
            };
            match &mut confirmed {
                _ if !after.holds() => {}
                None => {
                    confirmed = Some((trial.cause(after), subgraph, rewrite.certainty));
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
        trials.retain(|trial| trial.rewrite.certainty == Certainty::Definite);
        trials.sort_by(|a, b| by_difference(&a.evidence, &b.evidence));
        let Some(trial) = trials.first() else {
            return Ok(None);
        };
        let Some((after, subgraph)) = self.tried(&trial.rewrite, context.subgraph)? else {
            return Ok(None);
        };
        let less = after.relative_frobenius < LEFT * left.relative_frobenius;
        Ok(less.then(|| (trial.cause(after), subgraph)))
    }

    /// What a rewritten subgraph gives; `None` if it does not fit together.
    fn tried(
        &self,
        rewrite: &Rewrite<'_>,
        subgraph: &Subgraph,
    ) -> Result<Option<(Evidence, Subgraph)>> {
        let Some(rewritten) = rewrite.applied(subgraph)? else {
            return Ok(None);
        };
        let evidence = rewritten.evidence(self.backend, self.confidence)?;
        Ok(Some((evidence, rewritten)))
    }
}

/// A rewrite and what it gave on the sample.
struct Trial<'a> {
    rule: &'static str,
    rewrite: Rewrite<'a>,
    evidence: Evidence,
}

impl Trial<'_> {
    fn cause(&self, after: Evidence) -> Cause {
        Cause {
            rule: Some(self.rule),
            finding: self.rewrite.finding.clone(),
            remedy: self.rewrite.remedy.clone(),
            after,
            alternatives: Vec::new(),
            exchanged: self.rewrite.exchanged.clone(),
            about: self.rewrite.about.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Cpu};
    use crate::checkpoint::{Stored, Weights};
    use crate::error::BadInput;
    use crate::exec::{Execution, Value};
    use crate::op::{
        self, Activation, Frequencies, Numerics, Op, RopeScaling, Rotary, RotaryFunction,
        RotaryPairs, RotaryTable, Rounding,
    };
    use crate::plan::{Param, Plan, Step, Variant};
    use crate::tensor::{DType, Tensor};
    use std::collections::HashMap;

    /// Ops that no model of the project's references has yet are tried on data drawn here: the
    /// reference is the right step's result.
    struct Bench {
        weights: HashMap<String, Tensor>,
        /// One that is there and cannot be read.
        lost: Option<&'static str>,
    }

    impl Bench {
        fn new<const N: usize>(weights: [(&str, Tensor); N]) -> Self {
            let weights = weights.map(|(name, value)| (name.to_owned(), value));
            Self {
                weights: weights.into(),
                lost: None,
            }
        }
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
            let found = self.weights.get(name).filter(|_| self.lost != Some(name));
            found.cloned().ok_or_else(|| missing().into())
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
            numerics: if product {
                Numerics::product(DType::F32)
            } else {
                Numerics::elementwise(DType::F32, Rounding::EachOperation)
            },
        }
    }

    fn linear() -> Op {
        Op::Linear(op::Linear {
            bias: false,
            partials: op::Partials::ONE,
        })
    }

    fn first_cause(
        wrong: Vec<Step>,
        given: &[(&str, Tensor)],
        plan: &Plan,
        bench: &Bench,
        reference: Tensor,
    ) -> String {
        let found = explained(wrong, given, plan, bench, reference).unwrap();
        assert!(found.complete, "{found:?}");
        found.causes[0].finding.clone()
    }

    fn explained(
        wrong: Vec<Step>,
        given: &[(&str, Tensor)],
        plan: &Plan,
        bench: &Bench,
        reference: Tensor,
    ) -> Result<Explanation> {
        let given = given
            .iter()
            .map(|(id, value)| ((*id).into(), value.clone()));
        let params = wrong.iter().flat_map(|step| &step.params);
        let params = params.map(|p| (p.name.clone(), bench.weights[&p.name].clone()));
        let subgraph = Subgraph::new(wrong.clone(), given.collect(), params.collect(), reference);
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
        assert!(
            found.is_err() || tried == rules().len(),
            "{tried} rules tried"
        );
        found
    }

    /// Puts every bug of a rule that fits into a plan's steps after the given values: the reference is
    /// the right steps' result.
    fn bugs_are_named(rule: &str, plan: &Plan, given: &[(&str, Tensor)], but: &[&str]) {
        let bench = Bench::new([]);
        let is_given = |step: &Step| given.iter().any(|(id, _)| step.id.as_str() == *id);
        let right: Vec<Step> = plan
            .steps()
            .iter()
            .filter(|step| !is_given(step))
            .cloned()
            .collect();
        let start = given
            .iter()
            .map(|(id, value)| ((*id).into(), Value::given(value.clone())));
        let reference = Execution::whole(&right, &Cpu, start);
        let reference = reference.finish(None, |_| Ok(Vec::new())).unwrap().array;
        let rule = rules().iter().find(|other| other.id() == rule).unwrap();
        for bug in rule.bugs() {
            if but.contains(&bug.name) {
                continue;
            }
            let injected = bug.inject(plan, &bench).unwrap().expect(bug.name);
            let mut wrong = right.clone();
            wrong.iter_mut().for_each(&injected.rewriting);
            let found = first_cause(wrong, given, plan, &bench, reference.clone());
            assert!(found.contains(&injected.named_by), "{}: {found}", bug.name);
        }
    }

    #[test]
    fn rotary_embeddings_are_put_right() {
        for pairs in [RotaryPairs::Halves, RotaryPairs::Interleaved] {
            let table = |function| {
                let table = RotaryTable {
                    function,
                    frequencies: Frequencies {
                        theta: 1e4,
                        dims: 8,
                        scaling: RopeScaling::None,
                    },
                    offset: 0,
                };
                Op::from(table)
            };
            let once = |step| Step {
                numerics: Numerics::elementwise(DType::F32, Rounding::Once),
                ..step
            };
            let steps = vec![
                step("x", linear(), &["tokens"], &[]),
                once(step("cos", table(RotaryFunction::Cos), &["positions"], &[])),
                once(step("sin", table(RotaryFunction::Sin), &["positions"], &[])),
                step(
                    "q",
                    Rotary { dims: 8, pairs }.into(),
                    &["x", "cos", "sin"],
                    &[],
                ),
            ];
            let plan = Plan::new(DType::F32, steps).unwrap();
            let positions = Tensor::from_vec(&[2, 9], (0..18_i64).map(|at| at % 9).collect());
            let given = [
                ("x", draw(&[2, 3, 9, 8], 1)),
                ("positions", positions.unwrap()),
            ];
            // Nothing to lose.
            bugs_are_named("rotary", &plan, &given, &["rotary scaling lost"]);
        }
    }

    #[test]
    fn gated_layers_are_put_right() {
        let activation = Activation::Silu;
        let steps = vec![
            step("gate", linear(), &["tokens"], &[]),
            step("up", linear(), &["tokens"], &[]),
            step("act", op::Gate { activation }.into(), &["gate", "up"], &[]),
        ];
        let plan = Plan::new(DType::F32, steps).unwrap();
        let given = [("gate", draw(&[1, 9, 16], 1)), ("up", draw(&[1, 9, 16], 2))];
        // The layers themselves are given.
        bugs_are_named(
            "gate",
            &plan,
            &given,
            &["gate and up of 2 ranks cut in the middle"],
        );
    }

    #[test]
    fn a_weight_that_cannot_be_read_is_an_error() {
        let shape: &[usize] = &[8, 6];
        let mut bench = Bench::new([
            ("gate.weight", draw(shape, 1)),
            ("up.weight", draw(shape, 2)),
        ]);
        bench.lost = Some("up.weight");
        let wrong = step("gate", linear(), &["tokens"], &[("gate.weight", shape)]);
        let plan = Plan::new(DType::F32, vec![wrong.clone()]).unwrap();
        let x = draw(&[1, 9, 6], 3);
        let reference = Backend::run(&Cpu, &wrong, &[&x], &[&draw(shape, 4)]).unwrap();
        let error = explained(vec![wrong], &[("tokens", x)], &plan, &bench, reference).unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory: expected up.weight, found nothing"
        );
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
        let bench = Bench::new([(names[0], half(0)), (names[1], half(1))]);
        let linear = |id, name, input| step(id, linear(), &[input], &[(name, &[8, 6])]);
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
            let reference = Backend::run(&Cpu, &wrong, &[&x], &[right]).unwrap();
            let found = first_cause(vec![wrong], &[("x", x.clone())], &plan, &bench, reference);
            assert!(
                found.contains("2 ranks are concatenated rank by rank"),
                "{found}"
            );
        }
    }
}
