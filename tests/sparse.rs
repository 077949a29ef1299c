//! References that hold some stages only: a correct model passes whatever they hold, and a wrong one fails
//! at the first recorded stage that shows it.

use crate::common;
use parity::backend::{Backend, Cpu, Fp64};
use parity::case::{Case, Mode};
use parity::compare::Budget;
use parity::diff::{Candidate, Modes, Options, Verdict, diff, diff_candidate};
use parity::exec::{self, Execution, Value};
use parity::explain::rules;
use parity::golden::{Golden, Reference};
use parity::op::{Confidence, ErrorBound, Operand};
use parity::plan::{StageId, Step};
use parity::tensor::Tensor;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A copy of a golden that holds some of its stages only, one at least.
fn drawn_part_of(golden: &Path, share: f64, draw: &mut Draw) -> tempfile::TempDir {
    let stages = Golden::open(golden)
        .expect("a golden")
        .manifest()
        .stages
        .len();
    let always = (draw.uniform() * stages as f64) as usize;
    let mut place = 0;
    part_of(golden, |_| {
        place += 1;
        draw.uniform() < share || place == always + 1
    })
}

/// A copy of a golden that holds some of its stages only.
fn part_of(golden: &Path, mut holds: impl FnMut(&str) -> bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let manifest = fs::read_to_string(golden.join(Golden::MANIFEST)).expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let stages = manifest["stages"].as_array_mut().expect("stages");
    stages.retain(|stage| holds(stage["stage"].as_str().expect("a name")));
    let text = manifest.to_string();
    fs::write(folder.path().join(Golden::MANIFEST), &text).expect("written");
    for entry in golden.read_dir().expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("a name").to_owned();
        if path.is_file() && text.contains(&format!("\"{name}\"")) {
            fs::copy(path, folder.path().join(name)).expect("copied");
        }
    }
    folder
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let entries = folder.read_dir().expect("a folder");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    let cases = paths.iter().map(|path| Case::open(path).expect("a case"));
    cases.collect()
}

/// Knuth's MMIX generator; its upper bits.
struct Draw(u64);

impl Draw {
    fn new(seed: u64) -> Self {
        let mut draw = Self(seed);
        (0..4).for_each(|_| {
            draw.uniform();
        });
        draw
    }

    fn uniform(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1 << 24) as f64
    }
}

/// Of a long reference few stages, or half of them.
const SHARES: [f64; 3] = [0.05, 0.15, 0.5];

/// The dumps that most people have: outputs of blocks; layer input, attention output and its projection;
/// logits alone. transformers' arithmetic rounds elsewhere than Megatron's on the way.
#[test]
fn a_correct_model_passes_on_the_commonest_dumps() {
    let blocks = ["h.0", "h.1", "ln_f", "logits"];
    let selection = ["word_embeddings_layernorm", "h.0", "h.1"];
    let attention = ["self_attention.context", "self_attention.dense"];
    type Holds<'a> = &'a dyn Fn(&str) -> bool;
    let dumps: [(&str, Holds<'_>); 4] = [
        ("bloom_bf16_tp1", &|stage| blocks.contains(&stage)),
        ("bloom_bf16_tp1", &|stage| {
            selection.contains(&stage) || attention.iter().any(|end| stage.ends_with(end))
        }),
        ("bloom_fp16_tp1", &|stage| stage == "logits"),
        // Of a later stage of the pipeline: nothing of the first block.
        ("bloom_bf16_tp1", &|stage| {
            stage.starts_with("h.1.") || stage == "logits"
        }),
    ];
    for (name, holds) in dumps {
        let path = common::goldens().join(name);
        let part = part_of(&path, holds);
        let outcome = common::run(&common::case(part.path(), path.join("hf")));
        let faults: Vec<String> = outcome
            .failures()
            .map(|result| {
                format!(
                    "{name}: {} {}: {:?}",
                    result.stage, result.mode, result.checks
                )
            })
            .collect();
        assert_eq!(faults, Vec::<String>::new());
        let isolated = outcome
            .stages
            .iter()
            .filter(|result| result.mode == Mode::Isolated);
        let over: Vec<_> = isolated.map(|result| &result.stretch).collect();
        assert!(
            over.iter()
                .any(|stretch| stretch.through.len() > 3 && !stretch.differences.is_empty()),
            "{name}: {over:?}"
        );
    }
}

#[test]
fn a_correct_model_passes_whatever_stages_are_recorded() {
    let cases = cases();
    // 21 of every case in a full run: more than 500.
    let draws = (0..21).flat_map(|seed| (0..cases.len()).map(move |case| (seed, case)));
    let mut judged_over_more = 0;
    let mut faults = Vec::new();
    for (seed, number) in common::sample(draws, 151) {
        let mut draw = Draw::new(100 * number as u64 + seed);
        let share = SHARES[(draw.uniform() * 3.0) as usize];
        let part = drawn_part_of(&cases[number].golden, share, &mut draw);
        let case = Case {
            golden: part.path().to_owned(),
            ..cases[number].clone()
        };
        let outcome = diff(&case, &Options::default(), &mut |_| {});
        let outcome = outcome.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let stretches = outcome.stages.iter().map(|result| &result.stretch);
        judged_over_more += stretches
            .filter(|stretch| !stretch.through.is_empty())
            .count();
        faults.extend(outcome.failures().map(|result| {
            format!(
                "{} {seed}: {} {}: {:?}",
                case.name, result.stage, result.mode, result.metrics
            )
        }));
    }
    assert_eq!(faults, Vec::<String>::new());
    assert!(judged_over_more > 5, "only {judged_over_more}");
}

/// What a bug does to recorded stages on recorded inputs.
struct Effects<'a> {
    steps: Vec<Step>,
    candidate: &'a Candidate,
}

impl<'a> Effects<'a> {
    fn of(candidate: &'a Candidate) -> Self {
        let plan = candidate.model.plan(candidate.dtype, &Default::default());
        let mut steps = plan.expect("a plan").steps().to_vec();
        if let Some(rewriting) = &candidate.rewriting {
            steps.iter_mut().for_each(rewriting);
        }
        Self { steps, candidate }
    }

    /// The values of the recorded stages, each computed from recorded ones, with their error bounds if a
    /// confidence is named.
    fn values<B: Backend<Array = Tensor>>(
        &self,
        backend: &B,
        golden: &Golden,
        confidence: Option<Confidence>,
    ) -> HashMap<StageId, (Tensor, Option<ErrorBound>)> {
        let recorded = golden.manifest().stages.iter().map(|record| &record.stage);
        let recorded: HashSet<&StageId> = recorded.collect();
        let start = exec::start(&golden.tokens().expect("tokens"), None).expect("positions");
        let start = start.map(|(id, value)| (id, Value::given(value)));
        let mut execution = Execution::new(&self.steps, backend, start, &recorded, &recorded);
        let mut values = HashMap::new();
        for step in execution.steps().collect::<Vec<_>>() {
            let params = step.params.iter();
            let params = params.map(|param| self.candidate.weights.load(&param.name));
            let params: Vec<Tensor> = params.collect::<Result<_, _>>().expect("weights");
            let mut kept = None;
            if execution.runs(&step.id) {
                let value = execution.compute(step, &params).expect("a step that runs");
                let operands: Vec<Operand<'_>> = params.iter().map(Operand::given).collect();
                let bound = confidence.and_then(|confidence| {
                    let bound = execution.error_bound(step, &operands, &value, confidence);
                    bound.expect("a bound")
                });
                if recorded.contains(&step.id) {
                    values.insert(step.id.clone(), (value.clone(), bound.clone()));
                }
                kept = Some(match confidence {
                    Some(confidence) => {
                        Value::computed(step, value.clone(), &value, bound, confidence)
                            .expect("numbers")
                    }
                    None => Value::given(value),
                });
            }
            if recorded.contains(&step.id) {
                let Ok(Some(Reference::Full(value))) = golden.reference(&step.id) else {
                    panic!("{} is recorded", step.id);
                };
                kept = Some(Value::given(value));
            }
            execution.keep(step, kept);
        }
        values
    }
}

/// The first recorded stage of which some element is changed by more than twice what two correct
/// implementations may differ by.
fn first_shown(correct: &Candidate, wrong: &Candidate, golden: &Golden) -> Option<StageId> {
    let [exact, changed] =
        [correct, wrong].map(|candidate| Effects::of(candidate).values(&Fp64, golden, None));
    let confidence = Confidence::default();
    let bounds = Effects::of(correct).values(&Cpu, golden, Some(confidence));
    let shown = |stage: &StageId| {
        let (Some((_, Some(bound))), Some((exact, _))) = (bounds.get(stage), exact.get(stage))
        else {
            return false;
        };
        let budget = Budget::new(bound, bound, confidence);
        let [exact, changed] =
            [exact, &changed[stage].0].map(|x| x.as_slice::<f64>().expect("fp64"));
        let effects = exact.iter().zip(changed).map(|(a, b)| (a - b).abs());
        effects
            .zip(budget.allowed())
            .any(|(effect, allowed)| effect > 2.0 * f64::from(*allowed))
    };
    let stages = golden.manifest().stages.iter().map(|record| &record.stage);
    let mut shown: Vec<&StageId> = stages.filter(|stage| shown(stage)).collect();
    let plan = correct
        .model
        .plan(correct.dtype, &Default::default())
        .expect("a plan");
    let place = |of: &StageId| plan.stages().iter().position(|stage| *stage == of);
    shown.sort_by_key(|stage| place(stage));
    shown.first().map(|stage| (*stage).clone())
}

#[test]
fn a_wrong_model_fails_at_the_first_recorded_stage_that_shows_it() {
    let subjects = [
        ("transformers_bloom_fp32_tp1", "bloom_fp32_tp1", 40),
        ("transformers_gpt2_fp32", "megatron_core_gpt2_fp32_tp1", 40),
        (
            "transformers_llama3_fp32",
            "megatron_core_llama3_fp32_tp1",
            40,
        ),
        ("transformers_bloom_bf16_tp1", "bloom_bf16_tp1", 20),
        ("transformers_gpt2_bf16", "megatron_core_gpt2_fp32_tp1", 20),
        (
            "transformers_llama3_bf16",
            "megatron_core_llama3_fp32_tp1",
            20,
        ),
    ];
    let trials = subjects.iter().flat_map(|subject| {
        let bugs = rules().iter().flat_map(|rule| rule.bugs());
        bugs.enumerate()
            .map(move |(number, bug)| (subject, number, bug))
    });
    let mut counts = [[0; 3]; 2];
    for ((name, folder, _), number, bug) in common::sample(trials, 47) {
        let path = common::goldens().join(name);
        let whole = Golden::open(&path).expect("a golden");
        let dtype = whole.manifest().dtype;
        let folder = common::goldens().join(folder).join("hf");
        let open = || Candidate::open_as(&folder, Some(dtype)).expect("a model");
        let correct = open();
        let plan = correct
            .model
            .plan(dtype, &Default::default())
            .expect("a plan");
        let Some(injected) = bug
            .inject(&plan, correct.weights.as_ref())
            .expect("weights")
        else {
            continue;
        };
        let wrong = open().with(injected);
        let mut draw = Draw::new(1000 + number as u64);
        let share = SHARES[(draw.uniform() * 3.0) as usize];
        let part = drawn_part_of(&path, share, &mut draw);
        let golden = Golden::open(part.path()).expect("a golden");
        let options = Options {
            modes: Modes::Isolated,
            ..Options::default()
        };
        let case = common::case(part.path(), folder.clone());
        let outcome = diff_candidate(&case, &golden, &wrong, &options, &mut |_| {});
        let outcome = outcome.unwrap_or_else(|e| panic!("{name} with {}: {e}", bug.name));
        let shown = first_shown(&correct, &wrong, &golden);
        let counts = &mut counts[usize::from(dtype.is_half())];
        counts[0] += 1;
        counts[1] += usize::from(shown.is_some());
        counts[2] += usize::from(outcome.verdict() == Verdict::Fail);
        if let Some(shown) = shown {
            let result = outcome.stages.iter().find(|result| result.stage == shown);
            let result = result.expect("a judged stage");
            assert_eq!(
                result.verdict(),
                Verdict::Fail,
                "{name} with {}: {shown} shows it: {:?}",
                bug.name,
                result.metrics
            );
        }
    }
    let [fp32, bf16] = counts;
    println!(
        "bugs in references of some stages, of them shown in fp64, caught: fp32 {fp32:?}, bf16 {bf16:?}"
    );
    assert!(fp32[1] > 0 && bf16[0] > 0);
}
