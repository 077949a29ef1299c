//! The one-pass comparison of two arrays against reading them once.
//!
//! Floor: a comparison has to read both arrays, so the baseline reads both and adds them up, in 16
//! independent fp32 sums a thread that compile to the widest vectors of the machine the bench runs
//! on. Criterion's throughput is bytes of both arrays.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use multiversion::multiversion;
use parity::compare::{Spec, compare};
use parity::tensor::Tensor;
use rayon::prelude::*;
use std::hint::black_box;

const ROWS: usize = 1 << 14;
const COLUMNS: usize = 1 << 12;

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn sum(chunk: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 64];
    for values in chunk.chunks_exact(64) {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane += value;
        }
    }
    lanes.iter().sum()
}

fn read_and_sum(a: &[f32], b: &[f32]) -> f32 {
    let chunks = a.par_chunks(1 << 16).zip(b.par_chunks(1 << 16));
    chunks.map(|(a, b)| sum(a) + sum(b)).sum()
}

fn bench(criterion: &mut Criterion) {
    let array = |offset: f32| {
        let data = (0..ROWS * COLUMNS).map(|i| ((i * 7919) % 4093) as f32 * 1e-3 + offset);
        Tensor::from_vec(&[ROWS, COLUMNS], data.collect::<Vec<f32>>()).expect("the shape fits")
    };
    let (reference, candidate) = (array(0.0), array(1e-7));
    let slices = [&reference, &candidate].map(|t| t.as_slice::<f32>().expect("fp32"));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .expect("two threads");
    let mut group = criterion.benchmark_group("compare two 256 MiB fp32 arrays, 2 threads");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(
        (2 * ROWS * COLUMNS * size_of::<f32>()) as u64,
    ));
    group.bench_function("read and sum (floor)", |b| {
        b.iter(|| pool.install(|| read_and_sum(black_box(slices[0]), black_box(slices[1]))));
    });
    group.bench_function("compare", |b| {
        let spec = Spec::default();
        b.iter(|| pool.install(|| compare(black_box(&reference), black_box(&candidate), &spec)));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
