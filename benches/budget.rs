//! What rounding budgets and explanations cost.
//!
//! A synthetic BLOOM is written to a temporary folder with the values that Megatron's arithmetic
//! gives it here, and held against them in transformers' arithmetic, so that every linear layer has
//! different rounding points: the worst case, in which the reference's arithmetic runs, too.

mod common;

use common::weights;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use parity::arch::{BloomConfig, ModelConfig};
use parity::backend::{Backend, Cpu};
use parity::case::{Case, Pattern, Rule, Rules};
use parity::compare::{Bound, Tolerance};
use parity::diff::{Candidate, Modes, Options, Verdict, diff_candidate};
use parity::golden::{
    Algorithm, Content, FileRecord, Golden, Join, Layout, Manifest, Provenance, StageRecord,
};
use parity::plan::{Arithmetic, MegatronArithmetic, Plan, StageId};
use parity::tensor::{DType, Tensor, npy};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

struct Synthetic {
    folder: tempfile::TempDir,
}

impl Synthetic {
    /// `damage` is done to the weights of the model, not to those that the golden is made with.
    fn new(
        config: BloomConfig,
        dtype: DType,
        positions: usize,
        damage: impl FnOnce(&mut HashMap<String, Tensor>),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (golden, model) = (folder.path().join("golden"), folder.path().join("model"));
        fs::create_dir_all(&golden).expect("a folder");
        fs::create_dir_all(&model).expect("a folder");
        let arithmetic = Arithmetic::Megatron(MegatronArithmetic::default());
        let settings = serde_json::json!({
            "model_type": "bloom", "hidden_size": config.hidden_size, "n_layer": config.n_layer,
            "n_head": config.n_head, "vocab_size": config.vocab_size, "dtype": dtype.to_string(),
            "layer_norm_epsilon": config.layer_norm_epsilon,
        });
        fs::write(model.join("config.json"), settings.to_string()).expect("written");
        let vocabulary = config.vocab_size;
        let config = ModelConfig::Bloom(config);
        let plan = config.plan(dtype, &arithmetic).expect("a plan");
        let mut weights = weights(&plan);
        let tokens = (0..positions).map(|at| (at * 7919 % vocabulary) as i64);
        let tokens = Tensor::from_vec(&[1, positions], tokens.collect()).expect("tokens");
        let stages = stages(&golden, &plan, &weights, &tokens);
        damage(&mut weights);
        let views = weights.iter().map(|(name, tensor)| {
            let dtype = match dtype {
                DType::Bf16 => Dtype::BF16,
                DType::F32 => Dtype::F32,
                other => panic!("a model in {other}"),
            };
            let view = TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes());
            (name.as_str(), view.expect("a tensor"))
        });
        let path = model.join("model.safetensors");
        safetensors::serialize_to_file(views, None, &path).expect("written");
        let manifest = Manifest {
            provenance: Provenance {
                framework: "synthetic".into(),
                device: "cpu".into(),
                ..Provenance::default()
            },
            arithmetic,
            model: config,
            dtype,
            tokens: record(&golden, "tokens", &tokens),
            positions: None,
            attention_mask: None,
            stages,
        };
        fs::write(golden.join(Golden::MANIFEST), manifest.to_json()).expect("written");
        Self { folder }
    }

    fn golden(&self) -> PathBuf {
        self.folder.path().join("golden")
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    fn case(&self, bounds: Vec<Bound>) -> Case {
        Case {
            name: "synthetic".into(),
            golden: self.golden(),
            model: self.model(),
            arithmetic: None,
            tensor_parallel: None,
            dtype: None,
            rules: Rules {
                rules: vec![Rule {
                    stages: Pattern::all(),
                    device: None,
                    mode: None,
                    tolerance: Tolerance { bounds },
                    origin: "bench".into(),
                }],
            },
        }
    }
}

fn stages(
    folder: &Path,
    plan: &Plan,
    weights: &HashMap<String, Tensor>,
    tokens: &Tensor,
) -> Vec<StageRecord> {
    let mut values = HashMap::from([(StageId::from(StageId::TOKENS), tokens.clone())]);
    let mut stages: Vec<StageRecord> = Vec::new();
    for step in plan.steps() {
        let inputs: Vec<&Tensor> = step.inputs.iter().map(|id| &values[id]).collect();
        let params: Vec<&Tensor> = step.params.iter().map(|p| &weights[&p.name]).collect();
        let value = Cpu.run(step, &inputs, &params).expect("a step of the plan");
        // The first variant of a stage is the one that Megatron shows.
        if !step.op.locality().is_copy() && !stages.iter().any(|known| known.stage == step.stage) {
            stages.push(StageRecord {
                stage: step.stage.clone(),
                source: step.id.to_string(),
                dtype: plan.dtype(),
                layout: match value.shape().len() {
                    4 => Layout::Bnss,
                    _ => Layout::Bsh,
                },
                variant: step.variant,
                content: Content::Full {
                    join: Join::Replicated,
                    files: vec![record(folder, step.id.as_str(), &value)],
                    rank_drift: None,
                },
            });
        }
        values.insert(step.id.clone(), value);
    }
    stages
}

fn record(folder: &Path, name: &str, tensor: &Tensor) -> FileRecord {
    let file = format!("{name}.npy");
    npy::write(&folder.join(&file), tensor).expect("written");
    let digest = Algorithm::Blake3.digest(&fs::read(folder.join(&file)).expect("read"));
    FileRecord { file, digest }
}

fn config(hidden_size: usize, n_layer: usize) -> BloomConfig {
    BloomConfig {
        hidden_size,
        n_layer,
        n_head: hidden_size / 64,
        vocab_size: 4096,
        layer_norm_epsilon: 1e-5,
        apply_residual_connection_post_layernorm: false,
        tie_word_embeddings: true,
    }
}

fn isolated(criterion: &mut Criterion) {
    for dtype in [DType::F32, DType::Bf16] {
        let synthetic = Synthetic::new(config(1024, 2), dtype, 128, |_| {});
        let golden = Golden::open(synthetic.golden()).expect("a golden");
        let candidate = Candidate::open(&synthetic.model()).expect("a model");
        let options = Options {
            modes: Modes::Isolated,
            ..Options::default()
        };
        let mut group = criterion.benchmark_group(format!("isolated, hidden 1024, {dtype}"));
        group.sample_size(10);
        for (name, bounds) in [
            ("rel", vec![Bound::Rel(1.0)]),
            ("rounding", vec![Bound::Rounding]),
            (
                "rounding and flips",
                vec![Bound::Rounding, Bound::Flips(1e-6)],
            ),
        ] {
            let case = synthetic.case(bounds);
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    let outcome = diff_candidate(&case, &golden, &candidate, &options, &mut |_| {});
                    let outcome = black_box(outcome.expect("a case that runs"));
                    assert_eq!(outcome.verdict(), Verdict::Pass);
                });
            });
        }
        group.finish();
    }
}

/// One failing linear layer of hidden size 4096: the rows of its weight and bias lie by part instead
/// of by head.
fn explain(criterion: &mut Criterion) {
    let stage = "h.0.self_attention.query_key_value";
    let mut group = criterion.benchmark_group("explain one linear layer, hidden 4096");
    group.sample_size(10);
    for dtype in [DType::F32, DType::Bf16] {
        let synthetic = Synthetic::new(config(4096, 1), dtype, 128, |weights| {
            for name in ["weight", "bias"] {
                let tensor = weights
                    .get_mut(&format!("{stage}.{name}"))
                    .expect("a weight");
                let shape = tensor.shape().to_vec();
                let width = shape.get(1).copied().unwrap_or(1);
                let by_head = tensor
                    .clone()
                    .reshaped(&[64, 3, 64, width])
                    .expect("whole heads");
                let by_part = by_head.permuted(&[1, 0, 2, 3]);
                *tensor = by_part.reshaped(&shape).expect("as many elements");
            }
        });
        let golden = Golden::open(synthetic.golden()).expect("a golden");
        let candidate = Candidate::open(&synthetic.model()).expect("a model");
        let case = synthetic.case(vec![Bound::Rounding]);
        let options = Options {
            modes: Modes::Isolated,
            stages: stage.parse().expect("a pattern"),
            explain: true,
            ..Options::default()
        };
        group.bench_function(BenchmarkId::from_parameter(dtype), |b| {
            b.iter(|| {
                let outcome = diff_candidate(&case, &golden, &candidate, &options, &mut |_| {});
                let outcome = outcome.expect("a case that runs");
                let cause = &outcome.explanations[0].causes[0].finding;
                assert!(cause.contains("[3, heads, d]"), "{cause}");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, isolated, explain);
criterion_main!(benches);
