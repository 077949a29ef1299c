//! Every deliberate bug of every rule: whether it is caught, at the right stage, and explained; and
//! what the usual gates would have said.
//!
//! Every eighth of them by default; `scripts/full_check.sh` runs all, and writes docs/mutations.md and
//! docs/causes.md, to which both are held.

use crate::common;
use parity::arch::ModelConfig;
use parity::backend::{Backend, Cpu};
use parity::diff::{Candidate, CaseOutcome, Modes, Options, Verdict, diff_candidate};
use parity::explain::{Bug, rules};
use parity::golden::{Golden, Reference};
use parity::plan::{Arithmetic, StageId, Step};
use parity::tensor::Tensor;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// One bug in one type.
struct Trial {
    name: &'static str,
    dtype: &'static str,
    caught: bool,
    /// The first stage that fails, and whether it is the one that the bug changes first.
    stage: String,
    right_stage: bool,
    /// The first answer, and whether it names the bug.
    cause: String,
    right_cause: bool,
    /// What the first failing stage fails by.
    ratio: String,
    cosine: f64,
    mean_difference: f64,
}

/// A model with a bug in it.
struct Damaged {
    candidate: Candidate,
    /// The first stage that the bug changes.
    stage: String,
    /// Part of the finding that names it.
    named_by: String,
}

/// A bug of a rule in a model; `None` if the model has no place for it.
fn damaged(bug: &Bug, golden: &Golden, candidate: Candidate) -> Option<Damaged> {
    let manifest = golden.manifest();
    let plan = candidate
        .model
        .plan(candidate.dtype, &manifest.arithmetic)
        .expect("a plan");
    let recorded = |step: &Step| {
        let mut records = manifest.stages.iter();
        records.any(|record| record.stage == step.stage && record.variant == step.variant)
    };
    let injected = bug.inject(&plan, candidate.weights.as_ref());
    let injected = injected.expect("weights")?;
    let stage = injected.first_stage(&plan, recorded);
    Some(Damaged {
        stage: stage.expect("a recorded stage").to_string(),
        named_by: injected.named_by.clone(),
        candidate: candidate.with(injected),
    })
}

/// A config with another epsilon, which only the candidate's arithmetic uses in the first norm: a
/// change of the candidate's steps, not of the reference's.
fn with_epsilon_of_config(_: &Golden, mut candidate: Candidate) -> Option<Damaged> {
    let ModelConfig::Bloom(bloom) = &mut candidate.model else {
        return None;
    };
    bloom.layer_norm_epsilon = 1e-6;
    Some(Damaged {
        candidate,
        stage: "word_embeddings_layernorm".into(),
        named_by: "is computed as layer norm (eps 1e-6)".into(),
    })
}

type Damage<'a> = &'a dyn Fn(&Golden, Candidate) -> Option<Damaged>;

/// `None` if the model has no place for the bug.
fn trial(name: &'static str, golden: &str, damage: Damage<'_>) -> Option<Trial> {
    let path = common::goldens().join(golden);
    let golden = Golden::open(&path).expect("a golden");
    let candidate = Candidate::open(&path.join("hf")).expect("a model");
    let Damaged {
        candidate,
        stage: right_stage,
        named_by,
    } = damage(&golden, candidate)?;
    let options = Options {
        modes: Modes::Isolated,
        explain: true,
        ..Options::default()
    };
    let case = common::case(&path, path.join("hf"));
    let outcome = diff_candidate(&case, &golden, &candidate, &options, &mut |_| {});
    let outcome = outcome.expect("a case that can be run");
    let first = outcome.first_failure();
    let stage = first.map_or(String::new(), |first| first.stage.to_string());
    let cause = first_answer(&outcome);
    let ratio = first.map_or(String::new(), |first| {
        let metrics = &first.metrics;
        match (&metrics.worst_ratio, &metrics.flips) {
            (None, _) => format!("{} elements differ", metrics.unequal),
            (Some(worst_ratio), Some(flips)) if worst_ratio.ratio <= 1.0 => {
                let (observed, expected) = (flips.observed, flips.expected);
                format!(
                    "{:.2}, {observed} flips of {expected:.1}",
                    worst_ratio.ratio
                )
            }
            (Some(worst_ratio), _) => format!("{:.1e}", worst_ratio.ratio),
        }
    });
    let [cosine, mean_difference] = usual_gates(&golden, &candidate);
    Some(Trial {
        name,
        dtype: if golden.manifest().dtype.is_half() {
            "bf16"
        } else {
            "fp32"
        },
        caught: outcome.verdict() == Verdict::Fail,
        right_stage: stage == right_stage,
        right_cause: cause.contains(&named_by),
        stage,
        cause,
        ratio,
        cosine,
        mean_difference,
    })
}

/// What is said of the first failing stage.
fn first_answer(outcome: &CaseOutcome) -> String {
    let first = outcome.first_failure();
    let of_first = |explanation: &&parity::explain::Explanation| {
        first.is_some_and(|first| explanation.stages.contains(&first.stage))
    };
    let Some(explanation) = outcome.explanations.iter().find(of_first) else {
        return String::new();
    };
    match explanation.causes.first() {
        Some(cause) => cause.finding.clone(),
        // What is merely suspicious is no answer.
        None => "nothing explains it".into(),
    }
}

/// Cosine and mean absolute difference of the final logits of both models.
fn usual_gates(golden: &Golden, candidate: &Candidate) -> [f64; 2] {
    let plan = candidate
        .model
        .plan(candidate.dtype, &Arithmetic::default());
    let mut steps = plan.expect("a plan").steps().to_vec();
    if let Some(rewriting) = &candidate.rewriting {
        steps.iter_mut().for_each(rewriting);
    }
    let mut values: HashMap<StageId, Tensor> = HashMap::new();
    values.insert(StageId::TOKENS.into(), golden.tokens().expect("tokens"));
    for step in &steps {
        let inputs: Vec<&Tensor> = step.inputs.iter().map(|id| &values[id]).collect();
        let params = step
            .params
            .iter()
            .map(|param| candidate.weights.load(&param.name));
        let params: Vec<Tensor> = params.collect::<Result<_, _>>().expect("weights");
        let params: Vec<&Tensor> = params.iter().collect();
        let value = Cpu.run(step, &inputs, &params).expect("a step that runs");
        values.insert(step.id.clone(), value);
    }
    let logits = StageId::from("logits");
    let Ok(Some(Reference::Full(reference))) = golden.reference(&logits) else {
        panic!("logits are recorded");
    };
    let [ours, theirs] = [&values[&logits], &reference].map(|x| x.widened().expect("numbers"));
    let pairs = || {
        let ours = ours.as_slice::<f64>().expect("fp64").iter();
        ours.zip(theirs.as_slice::<f64>().expect("fp64"))
    };
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    let squares = pairs().fold([0.0; 2], |[a, b], (x, y)| [a + x * x, b + y * y]);
    let mean = pairs().map(|(a, b)| (a - b).abs()).sum::<f64>() / ours.len() as f64;
    [dot / (squares[0] * squares[1]).sqrt(), mean]
}

#[test]
fn deliberate_bugs_are_caught_and_named() {
    let mut trials: Vec<Trial> = Vec::new();
    let mut try_bug = |name, in_fp32: bool, damage: Damage<'_>| {
        let goldens = ["bloom_fp32_tp1", "bloom_bf16_tp1"];
        let goldens = goldens.into_iter().skip(usize::from(!in_fp32));
        trials.extend(goldens.filter_map(|golden| trial(name, golden, damage)));
    };
    for bug in common::sample(rules().iter().flat_map(|rule| rule.bugs()), 8) {
        try_bug(bug.name, bug.in_fp32, &|golden, candidate| {
            damaged(&bug, golden, candidate)
        });
    }
    try_bug("epsilon of the config 1e-6", true, &with_epsilon_of_config);
    let of = |dtype: &str| {
        trials
            .iter()
            .filter(move |t| t.dtype == dtype)
            .collect::<Vec<_>>()
    };
    let (fp32, bf16) = (of("fp32"), of("bf16"));
    let page = page(&trials);
    println!("{page}");
    if common::is_full() {
        assert!(fp32.len() >= 48 && bf16.len() >= 51);
    }
    for trial in &fp32 {
        assert!(trial.caught, "{} is not caught in fp32", trial.name);
        assert!(
            trial.right_stage,
            "{} is placed at {}",
            trial.name, trial.stage
        );
    }
    let named = fp32.iter().filter(|t| t.right_cause).count();
    assert!(
        10 * named >= 9 * fp32.len(),
        "{named} of {} named",
        fp32.len()
    );
    let caught = bf16.iter().filter(|t| t.caught).count();
    assert!(
        100 * caught >= 85 * bf16.len(),
        "{caught} of {} caught",
        bf16.len()
    );
    for name in [
        "epsilon of the config 1e-6",
        "erf GELU",
        "dense_h_to_4h through fp8 (e4m3)",
    ] {
        let of_name = bf16.iter().find(|t| t.name == name);
        assert!(
            of_name.map_or(!common::is_full(), |t| t.caught),
            "{name} in bf16"
        );
    }
    let cells = |row: &str| row.split('|').take(6).collect::<Vec<_>>().join("|");
    check("docs/mutations.md", &page, cells);
}

#[test]
fn every_cause_is_documented() {
    let rules = rules();
    let mut ids: Vec<&str> = rules.iter().map(|rule| rule.id()).collect();
    ids.dedup();
    assert!(ids.is_sorted() && ids.len() == rules.len(), "{ids:?}");
    let mut page = String::from(
        "# What is recognised\n\n\
         What `parity explain` recognises: a rule each, by the `id` that the JSON report has, with \
         the deliberate bugs that it is tested with. [What is caught](mutations.md) says what comes \
         of those that BLOOM has a place for; the others are tested on single steps.\n\n\
         Written by `PARITY_UPDATE_DOCS=1 cargo test --test main mutations`, and checked by the same \
         test.\n\n\
         | id | what goes wrong | deliberate bugs |\n|---|---|---|\n",
    );
    for rule in rules {
        let bugs: Vec<&str> = rule.bugs().iter().map(|bug| bug.name).collect();
        let (id, what, bugs) = (rule.id(), rule.what(), bugs.join("; "));
        let _ = writeln!(page, "| `{id}` | {what} | {bugs} |");
    }
    check("docs/causes.md", &page, str::to_owned);
}

/// A page in docs has to say what is found now, as far as `cells` keeps its rows: figures may differ in
/// their last digits between processors.
fn check(name: &str, page: &str, cells: impl Fn(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if common::is_full() && std::env::var_os("PARITY_UPDATE_DOCS").is_some() {
        fs::write(&path, page).expect("written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let words = |page: &str| -> Vec<String> {
        let rows = page.lines().filter(|line| line.starts_with('|'));
        rows.map(&cells).collect()
    };
    let (written, mut found) = (words(&written), words(page));
    let remedy = format!("{name} is out of date: scripts/full_check.sh writes it");
    if common::is_full() {
        assert_eq!(written, found, "{remedy}");
    }
    found.retain(|row| !written.contains(row));
    assert!(found.is_empty(), "{remedy}: {found:#?}");
}

fn page(trials: &[Trial]) -> String {
    let mut page = String::from(
        "# What is caught\n\n\
         Conversion bugs made on purpose in the two-layer BLOOM that Megatron-DeepSpeed ran \
         (`goldens/bloom_fp32_tp1`, `goldens/bloom_bf16_tp1`), against the built-in tolerances of \
         isolated mode. *Stage* is the first that fails; *cause* is the first answer of `parity \
         explain`; the last two columns say what gates on the final logits would have said: cosine \
         ≥ 0.99, mean absolute difference < 0.1.\n\n\
         Written by `scripts/full_check.sh`; every test run checks a part of it.\n\n",
    );
    for dtype in ["fp32", "bf16"] {
        let of: Vec<&Trial> = trials.iter().filter(|t| t.dtype == dtype).collect();
        let count = |which: fn(&&&Trial) -> bool| of.iter().filter(which).count();
        let _ = writeln!(
            page,
            "{dtype}: of {} bugs {} are caught, {} at the right first stage, {} named by the first \
             answer; the cosine gate lets {} pass, the mean gate {}.\n",
            of.len(),
            count(|t| t.caught),
            count(|t| t.right_stage),
            count(|t| t.right_cause),
            count(|t| t.cosine >= 0.99),
            count(|t| t.mean_difference < 0.1),
        );
    }
    page += "| bug | dtype | caught | first failing stage | cause | diff/budget | cosine gate | mean gate |\n";
    page += "|---|---|---|---|---|---|---|---|\n";
    for t in trials {
        let gate = |passes: bool| if passes { "passes" } else { "fails" };
        let right = |is: bool| if is { "" } else { " (wrong)" };
        let _ = writeln!(
            page,
            "| {} | {} | {} | `{}`{} | {}{} | {} | {} {:.4} | {} {:.1e} |",
            t.name,
            t.dtype,
            if t.caught { "yes" } else { "**no**" },
            t.stage,
            right(t.right_stage || !t.caught),
            t.cause,
            right(t.right_cause || !t.caught),
            t.ratio,
            gate(t.cosine >= 0.99),
            t.cosine,
            gate(t.mean_difference < 0.1),
            t.mean_difference,
        );
    }
    page
}
