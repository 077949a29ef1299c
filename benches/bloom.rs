//! One BLOOM block of hidden size 1024 with 16 heads, on CPU, as the difference of models of two
//! blocks and of one: milliseconds per layer are `2 blocks − 1 block`; both are shown.

mod common;

use common::weights;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use parity::arch::{BloomConfig, ModelConfig};
use parity::backend::{Backend, Cpu};
use parity::plan::{Arithmetic, Plan, StageId};
use parity::tensor::{DType, Tensor};
use std::collections::{BTreeSet, HashMap};
use std::hint::black_box;

const HIDDEN: usize = 1024;

fn forward(plan: &Plan, weights: &HashMap<String, Tensor>, tokens: &Tensor) -> Tensor {
    let last = plan.steps().len() - 1;
    let schedule = plan.schedule(&BTreeSet::from([last]), &BTreeSet::new());
    let mut values = HashMap::from([(StageId::from(StageId::TOKENS), tokens.clone())]);
    for (index, step) in plan.steps().iter().enumerate() {
        let inputs: Vec<&Tensor> = step.inputs.iter().map(|id| &values[id]).collect();
        let params: Vec<&Tensor> = step
            .params
            .iter()
            .map(|param| &weights[&param.name])
            .collect();
        let value = Cpu.run(step, &inputs, &params).expect("a step of the plan");
        values.insert(step.id.clone(), value);
        values.retain(|id, _| {
            index == last || schedule.last_uses.get(id).is_some_and(|use_| *use_ > index)
        });
    }
    values
        .remove(&plan.steps()[last].id)
        .expect("the last value")
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
