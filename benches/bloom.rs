//! One BLOOM block of hidden size 1024 with 16 heads, on CPU, as the difference of models of two
//! blocks and of one: milliseconds per layer are `2 blocks − 1 block`; both are shown.

mod common;

use common::weights;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use parity::arch::{BloomConfig, ModelConfig};
use parity::backend::Cpu;
use parity::exec::{Execution, Value};
use parity::plan::{Arithmetic, Plan, StageId, Step};
use parity::tensor::{DType, Tensor};
use std::collections::HashMap;
use std::hint::black_box;

const HIDDEN: usize = 1024;

fn forward(plan: &Plan, weights: &HashMap<String, Tensor>, tokens: &Tensor) -> Tensor {
    let start = [(StageId::from(StageId::TOKENS), Value::given(tokens.clone()))];
    let params = |step: &Step| {
        let params = step.params.iter();
        Ok(params
            .map(|param| Value::given(weights[&param.name].clone()))
            .collect())
    };
    let last = Execution::whole(plan.steps(), &Cpu, start).finish(None, params);
    last.expect("steps of a plan").array
}

fn bench(criterion: &mut Criterion) {
    for dtype in [DType::F32, DType::Bf16] {
        let mut group = criterion.benchmark_group(format!("bloom, hidden {HIDDEN}, {dtype}"));
        group.sample_size(10);
        for positions in [20, 512] {
            let tokens = Tensor::from_vec(&[1, positions], vec![1_i64; positions]).expect("tokens");
            for layers in [1, 2] {
                let config = ModelConfig::Bloom(BloomConfig {
                    hidden_size: HIDDEN,
                    n_layer: layers,
                    n_head: 16,
                    vocab_size: 256,
                    layer_norm_epsilon: 1e-5,
                    apply_residual_connection_post_layernorm: false,
                    tie_word_embeddings: true,
                });
                let plan = config.plan(dtype, &Arithmetic::default()).expect("a plan");
                let weights = weights(&plan);
                let id =
                    BenchmarkId::new(format!("{layers} blocks"), format!("{positions} tokens"));
                group.bench_function(id, |b| {
                    b.iter(|| black_box(forward(&plan, &weights, black_box(&tokens))));
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
