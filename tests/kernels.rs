//! The CUDA kernels without a GPU: the same source, run on the CPU by a shim, against a model of what
//! it says it computes. Every comparison is of bits.

mod model;
mod shim;

use crate::common::sample;
use half::{bf16, f16};
use model::{Order, by_halves, by_neighbours};
use parity::compare::{Close, Spec, Statistics};
use parity::op::Activation;
use parity::tensor::{Float, Tensor};
use proptest::prelude::*;
use shim::{Bits, Shim, launch, shim};

/// Compiles the kernels ahead of the first test that runs them.
pub(crate) fn prepare() {
    let _ = shim();
}

/// Runs a check for every storage type.
macro_rules! for_each_type {
    ($check:ident, $($argument:expr),*) => {
        $check::<f32>($($argument),*);
        $check::<f16>($($argument),*);
        $check::<bf16>($($argument),*);
    };
}

const COLUMNS: [usize; 18] = [
    1, 3, 4, 5, 64, 96, 127, 128, 511, 512, 513, 1023, 1024, 1025, 2048, 2049, 4100, 14336,
];

/// Numbers of both signs with exponents of two up to `spread` from 0.
fn values<T: Float>(count: usize, seed: u64, spread: u32) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    (0..count)
        .map(|_| {
            let fraction = 1.0 + draw() as f32 / 4_294_967_296.0;
            let exponent = (draw() % (2 * spread + 1)) as i32 - spread as i32;
            let sign = if draw() & 1 == 0 { 1.0 } else { -1.0 };
            T::from_f32(sign * fraction * 2.0_f32.powi(exponent))
        })
        .collect()
}

/// Values near 1, and values far apart.
const SPREADS: [u32; 2] = [1, 12];

#[track_caller]
fn assert_bits<T: Bits>(found: &[T], expected: &[T], what: &str) {
    assert_eq!(found.len(), expected.len());
    let differs = found
        .iter()
        .zip(expected)
        .position(|(a, b)| a.bits() != b.bits());
    if let Some(at) = differs {
        let [a, b] = [found[at], expected[at]].map(Float::to_f32);
        panic!("{} {what}: element {at} is {a:e}, expected {b:e}", T::NAME);
    }
}

fn zeros<T: Float>(count: usize) -> Vec<T> {
    vec![T::zeroed(); count]
}

/// A kernel's results for rows, and the model's.
fn check_norm<T: Bits>(
    kernel: &str,
    columns: usize,
    run: impl Fn(&[T], &[T], &[T], &mut [T], usize),
    model: impl Fn(&[T], &[T], &[T], usize) -> Vec<T>,
) {
    const ROWS: usize = 3;
    for spread in SPREADS {
        let x: Vec<T> = values(ROWS * columns, columns as u64, spread);
        let weight: Vec<T> = values(columns, 2, 2);
        // Takes the second row's own result away: what is left of it are the last bits of fp32, which
        // a half type would round away, and with them most of the difference that an order makes.
        let own = model(&x[columns..][..columns], &weight, &zeros(columns), columns);
        let bias: Vec<T> = own.iter().map(|y| T::from_f32(-y.to_f32())).collect();
        let mut found = zeros(ROWS * columns);
        run(&x, &weight, &bias, &mut found, ROWS);
        let rows = x.chunks(columns).enumerate();
        let expected: Vec<T> = rows
            .flat_map(|(row, x)| model(x, &weight, &bias, row * columns))
            .collect();
        assert_bits(
            &found,
            &expected,
            &format!("{kernel}, {columns} columns, spread {spread}"),
        );
    }
}

const EPS: f32 = 1e-5;

fn check_layer_norm<T: Bits>(shim: &Shim, columns: usize) {
    check_norm::<T>(
        "layer_norm",
        columns,
        |x, weight, bias, out, rows| {
            launch!(
                shim,
                T,
                "layer_norm",
                rows,
                [32, 4],
                x,
                weight,
                bias,
                out,
                columns,
                EPS
            );
        },
        |x, weight, bias, _| model::layer_norm(x, weight, bias, EPS, by_halves),
    );
}

fn check_layer_norm_scalar<T: Bits>(shim: &Shim, columns: usize) {
    check_norm::<T>(
        "layer_norm_scalar",
        columns,
        |x, weight, bias, out, rows| {
            launch!(
                shim,
                T,
                "layer_norm_scalar",
                rows,
                [512, 1],
                x,
                weight,
                bias,
                out,
                columns,
                EPS
            );
        },
        |x, weight, bias, _| model::layer_norm_scalar(x, weight, bias, EPS),
    );
}

fn check_rms_norm<T: Bits>(shim: &Shim, columns: usize) {
    check_norm::<T>(
        "rms_norm",
        columns,
        |x, weight, _, out, rows| {
            launch!(
                shim,
                T,
                "rms_norm",
                rows,
                [32, 4],
                x,
                weight,
                out,
                columns,
                EPS
            );
        },
        |x, weight, _, _| model::rms_norm(x, weight, EPS),
    );
}

fn check_megatron_layer_norm<T: Bits>(shim: &Shim, columns: usize) {
    check_norm::<T>(
        "megatron_layer_norm",
        columns,
        |x, weight, bias, out, rows| {
            assert_eq!(
                x.as_ptr() as usize % 4,
                0,
                "the model counts from a 32-bit boundary"
            );
            launch!(
                shim,
                T,
                "megatron_layer_norm",
                rows,
                [32, 4],
                x,
                weight,
                bias,
                out,
                columns,
                EPS
            );
        },
        |x, weight, bias, offset| model::megatron_layer_norm(x, weight, bias, EPS, offset),
    );
}

#[test]
fn norms_are_what_their_trees_sum_to() {
    let Some(shim) = shim() else { return };
    for columns in sample(COLUMNS, 3) {
        if columns % 4 == 0 {
            for_each_type!(check_layer_norm, shim, columns);
            for_each_type!(check_rms_norm, shim, columns);
        }
        for_each_type!(check_layer_norm_scalar, shim, columns);
        for_each_type!(check_megatron_layer_norm, shim, columns);
    }
}

/// The model can tell: some rows have other bits when the same values are summed in another order.
#[test]
fn another_order_gives_other_bits() {
    const COLUMNS: usize = 4096;
    let [weight, bias] = [vec![1.0; COLUMNS], vec![0.0; COLUMNS]];
    let norm = |x: &[f32], tree| model::layer_norm(x, &weight, &bias, EPS, tree);
    let softmax = |x: &[f32], order| model::softmax(x, COLUMNS, 1.0, &order);
    let vectors = |vector| Order::Vectors {
        threads: 1024,
        vector,
    };
    let generic = || Order::Generic {
        threads: 1024,
        vector: 4,
        head: 1,
    };
    let told_apart = |one: &dyn Fn(&[f32]) -> Vec<f32>, other: &dyn Fn(&[f32]) -> Vec<f32>| {
        let rows = (0..16).map(|seed| values::<f32>(COLUMNS, seed, 3));
        assert_ne!(rows.filter(|row| one(row) != other(row)).count(), 0);
    };
    told_apart(&|x| norm(x, by_halves), &|x| norm(x, by_neighbours));
    told_apart(&|x| norm(x, by_halves), &|x| {
        model::layer_norm_scalar(x, &weight, &bias, EPS)
    });
    told_apart(&|x| norm(x, by_halves), &|x| {
        model::megatron_layer_norm(x, &weight, &bias, EPS, 0)
    });
    told_apart(&|x| softmax(x, Order::Lanes(32)), &|x| {
        softmax(x, vectors(1))
    });
    told_apart(&|x| softmax(x, vectors(1)), &|x| softmax(x, vectors(4)));
    told_apart(&|x| softmax(x, vectors(4)), &|x| softmax(x, generic()));
}

fn log2_ceiling(keys: usize) -> i32 {
    keys.next_power_of_two().ilog2() as i32
}

/// As `Mask::seen`.
fn seen(row: usize, keys: usize, shift: i32, full: bool) -> usize {
    if full {
        keys
    } else {
        ((row % keys) as i64 + i64::from(shift) + 1).clamp(1, keys as i64) as usize
    }
}

/// Blocks of 128 threads for rows in registers.
fn warp_grid(rows: usize, keys: usize) -> usize {
    let elements = keys.next_power_of_two();
    let in_block = 128 / elements.min(32) * if elements <= 128 { 2 } else { 1 };
    rows.div_ceil(in_block)
}

/// Masks, by shift and whether all keys are seen.
fn masks(keys: usize) -> [(i32, bool); 4] {
    [(0, false), (-2, false), (keys as i32 - 2, false), (0, true)]
}

fn check_softmax_warp<T: Bits>(shim: &Shim, keys: usize) {
    let rows = (2 * keys).min(11);
    let scores: Vec<T> = values(rows * keys, keys as u64, 3);
    for (shift, full) in masks(keys) {
        for scale in [1.0, 0.3] {
            let mut found = zeros::<T>(rows * keys);
            let (grid, log2) = (warp_grid(rows, keys), log2_ceiling(keys));
            launch!(
                shim,
                T,
                "softmax_warp",
                grid,
                [128, 1],
                &scores[..],
                &mut found[..],
                rows,
                keys as i32,
                log2,
                scale,
                shift,
                full,
            );
            let order = Order::Lanes(keys.next_power_of_two().min(32));
            let expected: Vec<T> = (0..rows)
                .flat_map(|row| {
                    let seen = seen(row, keys, shift, full);
                    model::softmax(&scores[row * keys..][..keys], seen, scale, &order)
                })
                .collect();
            assert_bits(
                &found,
                &expected,
                &format!("softmax_warp, {keys} keys, shift {shift}"),
            );
        }
    }
}

fn check_softmax_block<T: Bits>(shim: &Shim, keys: usize, vector: usize, generic: bool) {
    let rows = 3;
    let scores: Vec<T> = values(rows * keys, keys as u64, 3);
    let threads = keys.min(1024).next_multiple_of(32);
    for (shift, full) in [masks(keys)[2], masks(keys)[3]] {
        let mut found = zeros::<T>(rows * keys);
        launch!(
            shim,
            T,
            "softmax_block",
            rows,
            [threads as u32, 1],
            &scores[..],
            &mut found[..],
            keys as i32,
            0.3_f32,
            shift,
            full,
            vector as i32,
            generic,
        );
        let expected: Vec<T> = (0..rows)
            .flat_map(|row| {
                let order = if generic {
                    Order::Generic {
                        threads,
                        vector,
                        head: row * keys % vector,
                    }
                } else {
                    Order::Vectors { threads, vector }
                };
                let seen = seen(row, keys, shift, full);
                model::softmax(&scores[row * keys..][..keys], seen, 0.3, &order)
            })
            .collect();
        let what = format!("softmax_block, {keys} keys, vector {vector}, generic {generic}");
        assert_bits(&found, &expected, &what);
    }
}

fn check_softmax_blocks<T: Bits>(shim: &Shim, keys: usize) {
    // fp32 shows the order of the half types' vectors better than they do.
    check_softmax_block::<T>(shim, keys, 1, false);
    for vector in [4, 8] {
        if keys.is_multiple_of(vector) {
            check_softmax_block::<T>(shim, keys, vector, false);
        }
        if keys >= 1024 {
            check_softmax_block::<T>(shim, keys, vector, true);
        }
    }
}

fn check_megatron_softmax<T: Bits>(shim: &Shim, keys: usize) {
    // Queries are rows modulo keys: the first matrix's first rows, and for short rows a second's.
    let rows = (2 * keys).min(150);
    let scores: Vec<T> = values(rows * keys, keys as u64, 3);
    for scale in [1.0, 0.3] {
        let mut found = zeros::<T>(rows * keys);
        let (grid, log2) = (warp_grid(rows, keys), log2_ceiling(keys));
        launch!(
            shim,
            T,
            "megatron_softmax",
            grid,
            [128, 1],
            &scores[..],
            &mut found[..],
            rows,
            keys as i32,
            log2,
            scale,
        );
        let expected: Vec<T> = (0..rows)
            .flat_map(|row| {
                model::megatron_softmax(&scores[row * keys..][..keys], row % keys, scale)
            })
            .collect();
        assert_bits(&found, &expected, &format!("megatron_softmax, {keys} keys"));
    }
}

#[test]
fn softmaxes_are_what_their_trees_sum_to() {
    let Some(shim) = shim() else { return };
    for keys in [2, 7, 16, 20, 33].into_iter().chain(sample(COLUMNS, 3)) {
        if keys <= 2048 {
            for_each_type!(check_softmax_warp, shim, keys);
            for_each_type!(check_megatron_softmax, shim, keys);
        }
        for_each_type!(check_softmax_blocks, shim, keys);
    }
}

/// One block for every 256 elements.
fn grid(count: usize) -> usize {
    count.div_ceil(256)
}

const BLOCK: [u32; 2] = [256, 1];

/// Every value of a half type, or as many of fp32; a thirteenth of them by default.
fn all_values<T: Float>() -> Vec<T> {
    let bits: Vec<u32> = match size_of::<T>() {
        2 => sample(0..1 << 15, 13)
            .map(|pair| pair << 17 | (2 * pair + 1))
            .collect(),
        _ => sample(0..1 << 16, 13)
            .map(|bits| bits << 16 | 0x9e37)
            .collect(),
    };
    bytemuck::cast_slice(&bits).to_vec()
}

fn check_activations<T: Bits>(shim: &Shim) {
    let x = all_values::<T>();
    let up: Vec<T> = values(x.len(), 5, 4);
    let count = x.len();
    for each in [false, true] {
        let round = model::rounding::<T>(each);
        for activation in Activation::ALL {
            let what = format!("{activation}, each {each}");
            let number = activation as i32;
            let mut found = zeros::<T>(count);
            launch!(
                shim,
                T,
                "activation",
                grid(count),
                BLOCK,
                &x[..],
                &mut found[..],
                count,
                number,
                each
            );
            let expected = x
                .iter()
                .map(|x| T::from_f32(model::activation(activation, x.to_f32(), &round)));
            assert_bits(&found, &expected.collect::<Vec<_>>(), &what);

            launch!(
                shim,
                T,
                "gate",
                grid(count),
                BLOCK,
                &x[..],
                &up[..],
                &mut found[..],
                count,
                number,
                each
            );
            let expected = x.iter().zip(&up).map(|(x, up)| {
                let activated = round(model::activation(activation, x.to_f32(), &|value| value));
                T::from_f32(activated * up.to_f32())
            });
            assert_bits(
                &found,
                &expected.collect::<Vec<_>>(),
                &format!("gate by {what}"),
            );
        }
        let mut found = zeros::<T>(count);
        launch!(
            shim,
            T,
            "soft_cap",
            grid(count),
            BLOCK,
            &x[..],
            &mut found[..],
            count,
            30.0_f32,
            each
        );
        let expected = x
            .iter()
            .map(|x| T::from_f32(30.0 * round(model::tanh(round(x.to_f32() / 30.0)))));
        assert_bits(
            &found,
            &expected.collect::<Vec<_>>(),
            &format!("soft_cap, each {each}"),
        );
    }
}

fn check_sums<T: Bits>(shim: &Shim) {
    let (rows, columns) = (5, 77);
    let count = rows * columns;
    let [a, b] = [1, 2].map(|seed| values::<T>(count, seed, 9));
    let row = &b[..columns];
    let each =
        |of: &dyn Fn(usize) -> f32| (0..count).map(|i| T::from_f32(of(i))).collect::<Vec<T>>();
    let mut found = zeros::<T>(count);

    launch!(
        shim,
        T,
        "add",
        grid(count),
        BLOCK,
        &a[..],
        &b[..],
        &mut found[..],
        count
    );
    assert_bits(&found, &each(&|i| a[i].to_f32() + b[i].to_f32()), "add");
    // A grid that is too small takes several steps.
    launch!(
        shim,
        T,
        "add_row",
        1,
        BLOCK,
        &a[..],
        row,
        &mut found[..],
        count,
        columns
    );
    assert_bits(
        &found,
        &each(&|i| a[i].to_f32() + row[i % columns].to_f32()),
        "add_row",
    );
    launch!(
        shim,
        T,
        "fill_rows",
        grid(count),
        BLOCK,
        row,
        &mut found[..],
        count,
        columns
    );
    assert_bits(&found, &each(&|i| row[i % columns].to_f32()), "fill_rows");
    launch!(
        shim,
        T,
        "scale",
        grid(count),
        BLOCK,
        &a[..],
        &mut found[..],
        count,
        0.3_f32
    );
    assert_bits(&found, &each(&|i| 0.3 * a[i].to_f32()), "scale");

    let all = all_values::<T>();
    let mut found = zeros::<T>(all.len());
    launch!(
        shim,
        T,
        "scale",
        grid(all.len()),
        BLOCK,
        &all[..],
        &mut found[..],
        all.len(),
        1.0_f32
    );
    assert_bits(&found, &all, "scale by 1");
}

/// Every rounding of the shim to a half type, near every value and halfway between any two.
fn check_roundings<T: Bits>(shim: &Shim) {
    let all = all_values::<T>();
    for factor in [
        1.0 + f32::EPSILON,
        1.0 + 1.5 / 256.0,
        1.0 + 1.0 / 2048.0,
        1e-3,
        3e4,
    ] {
        let mut found = zeros::<T>(all.len());
        launch!(
            shim,
            T,
            "scale",
            grid(all.len()),
            BLOCK,
            &all[..],
            &mut found[..],
            all.len(),
            factor
        );
        let expected = all.iter().map(|x| T::from_f32(factor * x.to_f32()));
        assert_bits(
            &found,
            &expected.collect::<Vec<_>>(),
            &format!("rounding times {factor}"),
        );
    }
}

#[test]
fn elements_are_computed_by_their_formulas() {
    let Some(shim) = shim() else { return };
    for_each_type!(check_activations, shim);
    for_each_type!(check_sums, shim);
    for_each_type!(check_roundings, shim);
}

fn check_heads<T: Bits>(shim: &Shim) {
    let (batch, positions, heads, dim) = (2, 5, 3, 7);
    let count = batch * positions * heads * dim;
    let fused: Vec<T> = values(3 * count, 11, 4);
    for part in 0..3 {
        let mut found = zeros::<T>(count);
        launch!(
            shim,
            T,
            "split_heads",
            grid(count),
            BLOCK,
            &fused[..],
            &mut found[..],
            batch,
            positions,
            heads,
            dim,
            3 * heads * dim,
            part * dim,
            3 * dim,
        );
        let mut expected = Vec::new();
        for b in 0..batch {
            for n in 0..heads {
                for s in 0..positions {
                    let start = (((b * positions + s) * heads + n) * 3 + part) * dim;
                    expected.extend_from_slice(&fused[start..][..dim]);
                }
            }
        }
        assert_bits(&found, &expected, "split_heads");

        launch!(
            shim,
            T,
            "merge_heads",
            grid(count),
            BLOCK,
            &expected[..],
            &mut found[..],
            batch,
            positions,
            heads,
            dim,
        );
        let merged = fused.chunks(dim).skip(part).step_by(3).flatten().copied();
        assert_bits(&found, &merged.collect::<Vec<_>>(), "merge_heads");
    }

    let mut found = zeros::<T>(3 * count);
    let size = positions * dim;
    launch!(
        shim,
        T,
        "repeat_heads",
        grid(found.len()),
        BLOCK,
        &fused[..count],
        &mut found[..],
        batch * heads,
        size,
        3_usize,
    );
    let repeated = fused[..count].chunks(size).flat_map(|head| [head; 3]);
    let expected: Vec<T> = repeated.flatten().copied().collect();
    assert_bits(&found, &expected, "repeat_heads");

    let slopes = [0.5_f32, 0.3, 0.1];
    for distance in [false, true] {
        let mut found = zeros::<T>(batch * heads * positions * positions);
        let matrices = batch * heads;
        launch!(
            shim,
            T,
            "alibi",
            grid(found.len()),
            BLOCK,
            &slopes[..],
            &mut found[..],
            matrices,
            heads as i32,
            positions as i32,
            distance,
        );
        let mut expected = Vec::new();
        for matrix in 0..matrices {
            for query in 0..positions {
                let place = |key: usize| {
                    if distance {
                        key as f32 - query as f32
                    } else {
                        key as f32
                    }
                };
                expected.extend(
                    (0..positions).map(|key| T::from_f32(slopes[matrix % heads] * place(key))),
                );
            }
        }
        assert_bits(&found, &expected, "alibi");
    }

    let (rows, hidden) = (9, 300);
    let table: Vec<T> = values(rows * hidden, 3, 4);
    let tokens = [3_i32, 0, 8, 3];
    let wide = tokens.map(i64::from);
    let expected: Vec<T> = tokens
        .iter()
        .flat_map(|token| table[*token as usize * hidden..][..hidden].to_vec())
        .collect();
    let mut found = zeros::<T>(expected.len());
    launch!(
        shim,
        T,
        "embedding",
        4,
        BLOCK,
        &tokens[..],
        4_i32,
        &table[..],
        &mut found[..],
        4_usize,
        hidden
    );
    assert_bits(&found, &expected, "embedding of i32");
    found.fill(T::zeroed());
    launch!(
        shim,
        T,
        "embedding",
        4,
        BLOCK,
        &wide[..],
        8_i32,
        &table[..],
        &mut found[..],
        4_usize,
        hidden
    );
    assert_bits(&found, &expected, "embedding of i64");
}

fn check_rotary<T: Bits>(shim: &Shim) {
    let (rows, positions, dim, dims) = (10, 5, 9, 6);
    let x: Vec<T> = values(rows * dim, 13, 3);
    let heads = 2;
    // One row of cosines and sines a token; of random numbers, as good as any.
    let table: Vec<T> = values(positions * dims, 7, 3);
    let sines: Vec<T> = table.iter().rev().copied().collect();
    for interleaved in [false, true] {
        for each in [false, true] {
            let mut found = zeros::<T>(x.len());
            launch!(
                shim,
                T,
                "rotary",
                grid(x.len()),
                BLOCK,
                &x[..],
                &table[..],
                &sines[..],
                &mut found[..],
                rows,
                heads,
                positions as i32,
                dim as i32,
                dims as i32,
                interleaved,
                each,
            );
            let round = model::rounding::<T>(each);
            let mut expected = x.clone();
            for (row, out) in expected.chunks_mut(dim).enumerate() {
                for pair in 0..dims / 2 {
                    let columns = [pair, pair + dims / 2].map(|c| row % positions * dims + c);
                    let cos = columns.map(|column| table[column].to_f32());
                    let sin = columns.map(|column| sines[column].to_f32());
                    let places = if interleaved {
                        [2 * pair, 2 * pair + 1]
                    } else {
                        [pair, pair + dims / 2]
                    };
                    let [a, b] = places.map(|place| out[place].to_f32());
                    out[places[0]] = T::from_f32(round(a * cos[0]) - round(b * sin[0]));
                    out[places[1]] = T::from_f32(round(b * cos[1]) + round(a * sin[1]));
                }
            }
            assert_bits(&found, &expected, &format!("rotary, each {each}"));
        }
    }
}

fn check_rotary_table<T: Bits>(shim: &Shim) {
    let (rows, pairs, factor) = (7, 3, 1.25_f32);
    let angles: Vec<f32> = (0..rows * pairs).map(|i| (i * i) as f32 * 0.37).collect();
    for cosine in [false, true] {
        let mut found = zeros::<T>(2 * rows * pairs);
        launch!(
            shim,
            T,
            "rotary_table",
            grid(found.len()),
            BLOCK,
            &angles[..],
            &mut found[..],
            2 * rows * pairs,
            pairs as i32,
            cosine,
            factor,
        );
        let of = |angle: &f32| {
            let angle = f64::from(*angle);
            let value = if cosine { angle.cos() } else { angle.sin() };
            T::from_f32(value as f32 * factor)
        };
        let expected: Vec<T> = angles
            .chunks(pairs)
            .flat_map(|row| row.iter().chain(row).map(of))
            .collect();
        assert_bits(&found, &expected, "rotary table");
    }
}

#[test]
fn elements_move_where_they_belong() {
    let Some(shim) = shim() else { return };
    for_each_type!(check_heads, shim);
    for_each_type!(check_rotary, shim);
    for_each_type!(check_rotary_table, shim);
}

const WORDS: usize = 22;

/// Compares segments of rows; one result each.
fn compared<T: Bits>(
    shim: &Shim,
    reference: &[T],
    candidate: &[T],
    row: usize,
    bounds: &[i64],
    close: Close,
) -> Vec<[u64; WORDS]> {
    let pieces = bounds.len() / 2;
    let segments = reference.len() / row * pieces;
    let mut out = vec![u64::MAX - 1; segments * WORDS];
    launch!(
        shim,
        T,
        "compare",
        segments.div_ceil(8),
        [128, 1],
        reference,
        candidate,
        segments,
        row,
        pieces as i32,
        bounds,
        true,
        close.atol,
        close.rtol,
        &mut out[..],
    );
    out.chunks(WORDS)
        .map(|words| words.try_into().unwrap())
        .collect()
}

/// The sum of what a formula makes of pairs: 16 interleaved lanes, neighbours folded.
fn lane_sum(values: impl Iterator<Item = f64>) -> f64 {
    let mut lanes = [0.0; 16];
    for (at, value) in values.enumerate() {
        lanes[at % 16] += value;
    }
    model::neighbours(&lanes, &|a, b| a + b)
}

/// What the library reports of arrays of one segment, and of sums that it reports only in figures
/// made of them.
fn check_compare<T: Bits>(shim: &Shim, reference: &[T], candidate: &[T]) {
    let count = reference.len();
    let close = Close {
        atol: 0.01,
        rtol: 0.2,
    };
    let words = compared(shim, reference, candidate, count, &[0, count as i64], close)[0];
    let float = |word: usize| f64::from_bits(words[word]);
    let [r, c] =
        [reference, candidate].map(|side| Tensor::from_vec(&[1, count], side.to_vec()).unwrap());
    let spec = Spec {
        close: Some(close),
        ..Spec::default()
    };
    let metrics = parity::compare::compare(&r, &c, &spec).unwrap();

    assert_eq!(words[0], metrics.unequal as u64);
    let counts = &metrics.non_finite;
    assert_eq!(words[1], counts.disagreements as u64);
    assert_eq!(words[3], metrics.outside_close as u64);
    assert_eq!(Some(words[4]), metrics.max_ulp);
    assert_eq!(
        words[6..8],
        [counts.reference_nans, counts.reference_infinities].map(|count| count as u64)
    );
    assert_eq!(
        words[8..10],
        [counts.candidate_nans, counts.candidate_infinities].map(|count| count as u64)
    );
    match &metrics.max_abs {
        None => assert_eq!(
            (words[5], words[10], words[20], words[21]),
            (u64::MAX, 0, 0, 0)
        ),
        Some(extreme) => {
            assert_eq!(words[5], extreme.position[1] as u64);
            let expected = [extreme.difference, extreme.reference, extreme.candidate];
            assert_eq!(
                [10, 20, 21].map(|word| words[word]),
                expected.map(f64::to_bits)
            );
        }
    }

    let wide = |side: &[T]| {
        side.iter()
            .map(|value| value.to_f64())
            .collect::<Vec<f64>>()
    };
    let [wide_r, wide_c] = [wide(reference), wide(candidate)];
    let pairs: Vec<(f64, f64)> = wide_r.iter().copied().zip(wide_c.iter().copied()).collect();
    let finite = pairs.iter().filter(|(r, c)| r.is_finite() && c.is_finite());
    let finite: Vec<(f64, f64)> = finite.copied().collect();
    assert_eq!(words[2] + words[1], (count - finite.len()) as u64);
    let sum = |of: fn(f64, f64) -> f64| lane_sum(finite.iter().map(|(r, c)| of(*r, *c)));
    let sums = [
        sum(|r, c| (r - c).abs()),
        sum(|r, c| (r - c) * (r - c)),
        sum(|r, _| r * r),
    ];
    assert_eq!(words[11..14], sums.map(f64::to_bits));
    if !finite.is_empty() {
        assert_eq!(
            (float(11) / finite.len() as f64).to_bits(),
            metrics.mean_abs.to_bits()
        );
    }

    for (first, tensor, wide) in [(14, &r, &wide_r), (17, &c, &wide_c)] {
        let statistics = Statistics::new(tensor, None).unwrap();
        let at = |column: &Option<Vec<f64>>| column.as_ref().unwrap()[0];
        // Where anything is not finite, on either side, sums go from element to element.
        let sum = if finite.len() == count {
            at(&statistics.token_sum)
        } else {
            wide.iter().fold(0.0, |sum, value| sum + value)
        };
        for (word, expected) in [
            (0, at(&statistics.token_min)),
            (1, at(&statistics.token_max)),
            (2, sum),
        ] {
            let expected = if expected.is_nan() {
                f64::NAN
            } else {
                expected
            };
            let found = float(first + word);
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "word {}: {found:e}, expected {expected:e}",
                first + word
            );
        }
    }
}

/// Pairs of which some are equal, most near, and with `wild` some not finite or zeros of both signs.
fn pairs<T: Float>(count: usize, seed: u64, wild: bool) -> [Vec<T>; 2] {
    const ODD: [f32; 5] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0];
    let reference: Vec<T> = values(count, seed, 6);
    let noise: Vec<f32> = values(count, seed ^ 0xff, 1);
    let mut pair = [reference.clone(), reference];
    for i in 0..count {
        let pick = noise[i].to_bits() >> 3;
        if !pick.is_multiple_of(3) {
            pair[1][i] = T::from_f32(pair[0][i].to_f32() * (1.0 + noise[i] * 0.1));
        }
        if wild && pick.is_multiple_of(11) {
            pair[pick as usize / 11 % 2][i] = T::from_f32(ODD[pick as usize / 22 % 5]);
        }
        if wild && pick.is_multiple_of(13) {
            let value = T::from_f32(ODD[pick as usize / 13 % 5]);
            (pair[0][i], pair[1][i]) = (value, value);
        }
    }
    pair
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn segments_are_compared_as_the_library_compares_them(
        count in 1_usize..300, seed in any::<u64>(), wild in any::<bool>(),
    ) {
        let Some(shim) = shim() else { return Ok(()) };
        let [r, c] = pairs::<f32>(count, seed, wild);
        check_compare(shim, &r, &c);
        let [r, c] = pairs::<f16>(count, seed, wild);
        check_compare(shim, &r, &c);
        let [r, c] = pairs::<bf16>(count, seed, wild);
        check_compare(shim, &r, &c);
    }
}

#[test]
fn long_and_odd_segments_are_compared_as_the_library_compares_them() {
    let Some(shim) = shim() else { return };
    for wild in [false, true] {
        let [r, c] = pairs::<bf16>(1 << 14, 3, wild);
        check_compare(shim, &r, &c);
    }
    for value in [f32::NAN, f32::INFINITY, 0.0, -0.0] {
        check_compare(shim, &[value; 20], &[value; 20]);
        check_compare(shim, &[value; 20], &[1.0; 20]);
        check_compare(shim, &[0.0; 20], &[value; 20]);
    }
    check_compare(shim, &[f32::MAX, f32::MIN], &[f32::MIN, f32::MAX]);
}

/// Segments lie where they should, and none sees another.
#[test]
fn segments_of_rows_are_compared_each_for_itself() {
    let Some(shim) = shim() else { return };
    let (rows, row) = (7, 90);
    let bounds = [0, 40, 40, 45, 45, 90];
    let close = Close {
        atol: 0.0,
        rtol: 0.05,
    };
    let [r, c] = pairs::<f16>(rows * row, 21, true);
    let all = compared(shim, &r, &c, row, &bounds, close);
    assert_eq!(all.len(), rows * 3);
    for (segment, words) in all.iter().enumerate() {
        let start = segment / 3 * row;
        let [from, to] = [0, 1].map(|end| bounds[2 * (segment % 3) + end] as usize);
        let [r, c] = [&r, &c].map(|side| &side[start + from..start + to]);
        let alone = compared(shim, r, c, to - from, &[0, (to - from) as i64], close);
        assert_eq!(*words, alone[0], "segment {segment}");
    }
}
