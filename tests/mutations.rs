//! Every deliberate bug of every rule: whether it is caught, at the right stage, and explained; and
//! what the usual gates would have said.
//!
//! Every two-hundredth of them by default; `scripts/full_check.sh` runs all, and writes docs/mutations.md and
//! docs/causes.md, to which both are held.

use crate::common;
use parity::arch::ModelConfig;
use parity::backend::{Backend, Cpu};
use parity::diff::{Candidate, CaseOutcome, Modes, Options, Verdict, diff_candidate};
use parity::exec;
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
    model: &'static str,
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

/// A model that bugs are put into, and what it is held against in fp32 and in bf16.
struct Subject {
    name: &'static str,
    /// Goldens, and the folder of the model that each is of.
    references: &'static [(&'static str, &'static str)],
}

const SUBJECTS: [Subject; 8] = [
    Subject {
        name: "BLOOM",
        references: &[
            ("bloom_fp32_tp1", "bloom_fp32_tp1"),
            ("bloom_bf16_tp1", "bloom_bf16_tp1"),
        ],
    },
    Subject {
        name: "GPT-2",
        references: &[
            ("megatron_core_gpt2_fp32_tp1", "megatron_core_gpt2_fp32_tp1"),
            ("megatron_core_gpt2_bf16_tp1", "megatron_core_gpt2_fp32_tp1"),
        ],
    },
    Subject {
        name: "Llama",
        references: &[
            (
                "megatron_core_llama3_fp32_tp1",
                "megatron_core_llama3_fp32_tp1",
            ),
            (
                "megatron_core_llama3_bf16_tp1",
                "megatron_core_llama3_fp32_tp1",
            ),
        ],
    },
    Subject {
        name: "Qwen2",
        references: &[("transformers_qwen2_bf16", "transformers_qwen2_bf16")],
    },
    Subject {
        name: "Qwen3",
        references: &[("transformers_qwen3_fp32", "transformers_qwen3_fp32")],
    },
    Subject {
        name: "Mixtral",
        references: &[(
            "megatron_core_mixtral_bf16_tp1",
            "megatron_core_mixtral_bf16_tp1",
        )],
    },
    Subject {
        name: "Qwen3-MoE",
        references: &[("transformers_qwen3_moe_bf16", "transformers_qwen3_moe_bf16")],
    },
    Subject {
        name: "DeepSeek-V3",
        references: &[(
            "transformers_deepseek_v3_bf16",
            "transformers_deepseek_v3_bf16",
        )],
    },
];

/// Bugs that fp32 does not show: an epsilon of 1e-6, beside mean squares of some units, is less than its rounding.
const UNSEEN: [(&str, &str); 1] = [("Qwen3", "epsilon of the last norm 1e-12")];

/// Fewer stages a block are few.
const FEW: usize = 20;

/// `None` if the model has no place for the bug.
fn trial(
    name: &'static str,
    model: &'static str,
    (golden, folder): (&str, &str),
    damage: Damage<'_>,
) -> Option<Trial> {
    let path = common::goldens().join(golden);
    let golden = Golden::open(&path).expect("a golden");
    let folder = common::goldens().join(folder).join("hf");
    let dtype = Some(golden.manifest().dtype);
    let candidate = Candidate::open_as(&folder, dtype).expect("a model");
    let Damaged {
        candidate,
        stage: right_stage,
        named_by,
    } = damage(&golden, candidate)?;
    // A model of which few stages were recorded is held to both modes, as by default.
    let is_sparse = golden.manifest().stages.len() < candidate.model.layers() * FEW;
    let options = Options {
        modes: if is_sparse {
            Modes::Both
        } else {
            Modes::Isolated
        },
        explain: true,
        ..Options::default()
    };
    let case = common::case(&path, folder);
    let outcome = diff_candidate(&case, &golden, &candidate, &options, &mut |_| {});
    let outcome = match outcome {
        Ok(outcome) => outcome,
        // Values of another shape than was recorded are refused before anything is compared.
        Err(e) if e.to_string().contains("expected shape") => return None,
        Err(e) => panic!("{model} with {name}: {e}"),
    };
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
        model,
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
    values.extend(exec::start(&golden.tokens().expect("tokens"), None).expect("positions"));
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
    // Either may have more rows of padding in its vocabulary.
    let row = |x: &Tensor| x.shape().last().copied().expect("an axis");
    let [ours, theirs] = [&values[&logits], &reference];
    let shared = row(ours).min(row(theirs));
    let [ours, theirs] = [ours, theirs].map(|x| {
        let wide = x.widened().expect("numbers");
        let rows = wide.as_slice::<f64>().expect("fp64").chunks(row(x));
        rows.flat_map(|values| values[..shared].to_vec())
            .collect::<Vec<f64>>()
    });
    let pairs = || ours.iter().zip(&theirs);
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    let squares = pairs().fold([0.0; 2], |[a, b], (x, y)| [a + x * x, b + y * y]);
    let mean = pairs().map(|(a, b)| (a - b).abs()).sum::<f64>() / ours.len() as f64;
    [dot / (squares[0] * squares[1]).sqrt(), mean]
}

#[test]
fn deliberate_bugs_are_caught_and_named() {
    let mut trials: Vec<Trial> = Vec::new();
    let mut try_bug = |name, in_fp32: bool, damage: Damage<'_>| {
        for subject in &SUBJECTS {
            let references = subject.references.iter();
            let references = references.filter(|(golden, _)| in_fp32 || !golden.contains("fp32"));
            trials.extend(references.filter_map(|of| trial(name, subject.name, *of, damage)));
        }
    };
    for bug in common::sample(rules().iter().flat_map(|rule| rule.bugs()), 200) {
        try_bug(bug.name, bug.in_fp32, &|golden, candidate| {
            damaged(&bug, golden, candidate)
        });
    }
    try_bug("epsilon of the config 1e-6", true, &with_epsilon_of_config);
    trials.sort_by_key(|trial| {
        SUBJECTS
            .iter()
            .position(|subject| subject.name == trial.model)
    });
    let page = page(&trials);
    println!("{page}");
    for subject in &SUBJECTS {
        let of = |dtype: &str| -> Vec<&Trial> {
            let of = trials.iter().filter(|t| t.model == subject.name);
            of.filter(|t| t.dtype == dtype).collect()
        };
        let (fp32, bf16) = (of("fp32"), of("bf16"));
        for trial in &fp32 {
            let Trial { name, stage, .. } = trial;
            if UNSEEN.contains(&(subject.name, name)) {
                assert!(!trial.caught, "{}: {name} shows after all", subject.name);
                continue;
            }
            assert!(
                trial.caught,
                "{}: {name} is not caught in fp32",
                subject.name
            );
            assert!(
                trial.right_stage,
                "{}: {name} is placed at {stage}",
                subject.name
            );
        }
        if !common::is_full() {
            // Of a sample a share says little; the page below says what has to come of each.
            continue;
        }
        let is_tried_enough = |of: &[&Trial]| of.is_empty() || of.len() >= 25;
        let name = subject.name;
        assert!(is_tried_enough(&fp32) && is_tried_enough(&bf16), "{name}");
        let enough = |count: usize, of: usize, percent: usize, what: &str| {
            let name = subject.name;
            assert!(
                100 * count >= percent * of,
                "{name}: {count} of {of} {what}"
            );
        };
        let named = fp32.iter().filter(|t| t.right_cause).count();
        enough(named, fp32.len(), 90, "named in fp32");
        let caught = bf16.iter().filter(|t| t.caught).count();
        enough(caught, bf16.len(), 90, "caught in bf16");
    }
    let cells = |row: &str| row.split('|').take(7).collect::<Vec<_>>().join("|");
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
         of those that one of the models there has a place for; the others are tested on single steps.\n\n\
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
         Conversion bugs made on purpose in the two-layer BLOOM that Megatron-DeepSpeed ran, in the \
         GPT-2 and the Llama 3 that megatron-core ran (`goldens/bloom_*_tp1`, \
         `goldens/megatron_core_*_tp1`), against the built-in tolerances of isolated mode, and in models of five \
         more architectures, of which fewer stages were recorded (`cases/` says of which run), against those of \
         both modes. An epsilon that is not caught is beside mean squares that leave nothing of it. *Stage* is the first that fails; *cause* is the first answer of `parity \
         explain`; the last two columns say what gates on the final logits would have said: cosine \
         ≥ 0.99, mean absolute difference < 0.1.\n\n\
         Written by `scripts/full_check.sh`; every test run checks a part of it.\n\n",
    );
    let subjects = SUBJECTS.iter().map(|subject| subject.name);
    for (model, dtype) in subjects.flat_map(|model| [(model, "fp32"), (model, "bf16")]) {
        let of = trials
            .iter()
            .filter(|t| (t.model, t.dtype) == (model, dtype));
        let of: Vec<&Trial> = of.collect();
        if of.is_empty() {
            continue;
        }
        let count = |which: fn(&&&Trial) -> bool| of.iter().filter(which).count();
        let _ = writeln!(
            page,
            "{model}, {dtype}: of {} bugs {} are caught, {} at the right first stage, {} named by the first \
             answer; the cosine gate lets {} pass, the mean gate {}.\n",
            of.len(),
            count(|t| t.caught),
            count(|t| t.right_stage),
            count(|t| t.right_cause),
            count(|t| t.cosine >= 0.99),
            count(|t| t.mean_difference < 0.1),
        );
    }
    page += "| model | bug | dtype | caught | first failing stage | cause | diff/budget | cosine gate | mean gate |\n";
    page += "|---|---|---|---|---|---|---|---|---|\n";
    for t in trials {
        let gate = |passes: bool| if passes { "passes" } else { "fails" };
        let right = |is: bool| if is { "" } else { " (wrong)" };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | `{}`{} | {}{} | {} | {} {:.4} | {} {:.1e} |",
            t.model,
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
