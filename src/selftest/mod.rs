//! What a case would catch: the rules' deliberate bugs, put into the case's own model one after the other.
//!
//! A gate that has never been seen to fail proves little. Here it is: which bugs this golden, with these
//! stages and tolerances, catches, at which stage and whether they are named; which would pass, and what to
//! record to see them; and what the golden cannot see whatever the bug.

mod blind;
mod render;

use crate::case::{Case, Mode};
use crate::diff::{Candidate, CaseOutcome, Event, Options, Share, Verdict, diff_candidate};
use crate::error::Result;
use crate::explain::{Bug, Injected, rules};
use crate::golden::Golden;
use crate::plan::{StageId, Step};
use serde::Serialize;

pub use render::{json, text};

/// Over how many stages that were not recorded a stage may be judged where bugs are named.
const MOST_NAMED: usize = 2;

/// What came of every bug that the model has a place for.
#[derive(Clone, Debug, Serialize)]
pub struct SelfTest {
    /// The case's name.
    pub case: String,
    /// Whether the model passes as it is: if not, nothing that fails proves anything, and no bug was tried.
    pub baseline: Verdict,
    /// Whether bugs that are caught are looked for by name: where stages are judged each for itself. Over a
    /// stretch of many steps that takes long, and says little.
    pub names: bool,
    /// What came of the bugs.
    pub trials: Vec<Trial>,
    /// What the golden cannot see, in sentences.
    pub blind_spots: Vec<String>,
}

/// What came of one bug.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// The bug.
    pub bug: &'static str,
    /// The rule whose bug it is.
    pub rule: &'static str,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Whether a bug fails the case.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It does.
    Caught {
        /// The first stage that fails.
        stage: StageId,
        /// In which mode.
        mode: Mode,
        /// Whether the explanation names it; `None` if nobody looked.
        named: Option<bool>,
    },
    /// The comparison is refused: a stage has another shape.
    Refused {
        /// What is said.
        error: String,
    },
    /// It passes.
    Passed {
        /// The first stage that it changes.
        changes: Option<StageId>,
        /// The first recorded one that it changes, if the golden holds any.
        recorded: Option<StageId>,
    },
}

impl SelfTest {
    /// How many bugs are caught.
    pub fn caught(&self) -> usize {
        let caught = |trial: &&Trial| !matches!(trial.outcome, Outcome::Passed { .. });
        self.trials.iter().filter(caught).count()
    }

    /// Whether the model passes, and fails with as many of the bugs as are required. A model that has a
    /// place for none proves nothing.
    pub fn verdict(&self, required: Share) -> Verdict {
        let enough = !self.trials.is_empty() && required.is_met(self.caught(), self.trials.len());
        match self.baseline {
            Verdict::Pass if enough => Verdict::Pass,
            _ => Verdict::Fail,
        }
    }
}

/// Runs a case as it is, and with every deliberate bug that its model has a place for.
///
/// # Errors
/// As [`diff`](crate::diff::diff).
pub fn selftest(case: &Case, options: &Options, on: &mut dyn FnMut(Event<'_>)) -> Result<SelfTest> {
    let golden = Golden::open(&case.golden)?;
    let open = || Candidate::open_as(&case.model, case.dtype);
    let candidate = open()?;
    let baseline = diff_candidate(case, &golden, &candidate, options, on)?;
    let names = baseline
        .stages
        .iter()
        .any(|result| result.mode == Mode::Isolated)
        && baseline
            .stages
            .iter()
            .all(|result| result.stretch.through.len() <= MOST_NAMED);
    let mut result = SelfTest {
        case: case.name.clone(),
        baseline: baseline.verdict(),
        names,
        trials: Vec::new(),
        blind_spots: blind::spots(&golden, &candidate, &baseline)?,
    };
    if result.baseline == Verdict::Fail {
        return Ok(result);
    }
    let options = &Options {
        explain: names,
        ..options.clone()
    };
    let arithmetic = &golden.manifest().arithmetic;
    let plan = candidate.model.plan(candidate.dtype, arithmetic)?;
    let bugs: Vec<(&'static str, Bug)> = rules()
        .iter()
        .flat_map(|rule| rule.bugs().into_iter().map(|bug| (rule.id(), bug)))
        .filter(|(_, bug)| bug.in_fp32 || candidate.dtype.is_half())
        .collect();
    let count = bugs.len();
    for (number, (rule, bug)) in bugs.into_iter().enumerate() {
        on(Event::Injecting {
            bug: bug.name,
            number,
            of: count,
        });
        let Some(injected) = bug.inject(&plan, candidate.weights.as_ref())? else {
            continue;
        };
        let passed = Outcome::Passed {
            changes: injected.first_stage(&plan, |_| true).cloned(),
            recorded: injected
                .first_stage(&plan, |step| is_recorded(&golden, options, step))
                .cloned(),
        };
        let named_by = injected.named_by.clone();
        // The case itself is one that runs.
        let outcome = match with_bug(case, &golden, open()?, injected, options) {
            Err(refusal) => Outcome::Refused {
                error: refusal.to_string(),
            },
            Ok(outcome) => match outcome.first_failure() {
                Some(first) => Outcome::Caught {
                    stage: first.stage.clone(),
                    mode: first.mode,
                    named: names.then(|| is_named(&outcome, &named_by)),
                },
                None => passed,
            },
        };
        result.trials.push(Trial {
            bug: bug.name,
            rule,
            outcome,
        });
    }
    on(Event::Finished);
    Ok(result)
}

fn with_bug(
    case: &Case,
    golden: &Golden,
    candidate: Candidate,
    bug: Injected,
    options: &Options,
) -> Result<CaseOutcome> {
    diff_candidate(case, golden, &candidate.with(bug), options, &mut |_| {})
}

/// Whether the first answer to the first failing stage names a bug.
fn is_named(outcome: &CaseOutcome, named_by: &str) -> bool {
    let first = outcome.first_failure().map(|first| &first.stage);
    let mut answers = outcome.explanations.iter();
    let answer = answers.find(|answer| first.is_some_and(|first| answer.stages.contains(first)));
    let cause = answer.and_then(|answer| answer.causes.first());
    cause.is_some_and(|cause| cause.finding.contains(named_by))
}

/// Whether a step's values, or statistics of them, were recorded and are judged.
fn is_recorded(golden: &Golden, options: &Options, step: &Step) -> bool {
    let mut records = golden.manifest().stages.iter();
    options.stages.matches(&step.stage) && records.any(|record| record.stage == step.stage)
}
