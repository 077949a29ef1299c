//! Rounding budgets are honest: two correct evaluations of one step, summed in different orders,
//! stay within them; and they are not vacuous.
//!
//! One evaluation is the CPU backend's; the other is written here, plainly, in the fp32 arithmetic
//! that frameworks have, with sums in an order that is drawn.

use crate::common::is_full;
use half::{bf16, f16};
use parity::backend::{Backend, Cpu};
use parity::compare::{Budget, Flips, Spec, compare};
use parity::op::{
    self, Activation, Alibi, AlibiForm, Confidence, Mask, Numerics, Op, Operand, Rotary,
    RotaryPairs, Rounding,
};
use parity::plan::{Param, Step, Variant};
use parity::tensor::{DType, Tensor};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use std::cell::{Cell, RefCell};

/// In which order a sum is taken.
#[derive(Clone, Copy, Debug)]
enum Order {
    Ascending,
    Descending,
    Pairwise,
    /// In so many interleaved lanes.
    Lanes(usize),
}

fn sum(terms: &[f32], order: Order) -> f32 {
    match order {
        Order::Ascending => terms.iter().fold(0.0, |sum, term| sum + term),
        Order::Descending => terms.iter().rev().fold(0.0, |sum, term| sum + term),
        Order::Pairwise => match terms.len() {
            0 => 0.0,
            1 => terms[0],
            n => sum(&terms[..n / 2], order) + sum(&terms[n / 2..], order),
        },
        Order::Lanes(lanes) => {
            let lane = |lane| terms.iter().skip(lane).step_by(lanes).sum::<f32>();
            (0..lanes).map(lane).sum()
        }
    }
}

/// What data looks like.
#[derive(Clone, Copy, Debug)]
enum Data {
    /// Uniform around zero.
    Centred,
    /// Uniform, of one sign: sums grow.
    Positive,
    /// Few large among many small.
    Heavy,
}

struct Draw(u64);

impl Draw {
    fn uniform(&mut self) -> f32 {
        // Knuth's MMIX generator; its upper bits.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }

    fn values(&mut self, count: usize, data: Data, dtype: DType) -> Vec<f32> {
        let values = (0..count).map(|_| match data {
            Data::Centred => 2.0 * self.uniform() - 1.0,
            Data::Positive => self.uniform(),
            Data::Heavy => (6.0 * self.uniform() - 4.0).exp() * (self.uniform() - 0.5),
        });
        values.map(|x| rounded(x, dtype)).collect()
    }
}

fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::Bf16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

fn tensor(shape: &[usize], values: &[f32], dtype: DType) -> Tensor {
    let values = values.iter().copied();
    match dtype {
        DType::F16 => Tensor::from_vec::<f16>(shape, values.map(f16::from_f32).collect()),
        DType::Bf16 => Tensor::from_vec::<bf16>(shape, values.map(bf16::from_f32).collect()),
        _ => Tensor::from_vec::<f32>(shape, values.collect()),
    }
    .unwrap()
}

/// A step with its operands, and the plain evaluation of it.
struct Example {
    step: Step,
    inputs: Vec<Tensor>,
    params: Vec<Tensor>,
    plain: Vec<f32>,
    /// Whether results are sums and nothing else: where norms, whose sums are shared, softmax and
    /// ALiBi's large biases leave most elements equal, a median says nothing.
    is_sum: bool,
}

fn step(op: Op, inputs: usize, params: &[&[usize]], numerics: Numerics) -> Step {
    Step {
        id: "y".into(),
        stage: "y".into(),
        variant: Variant::PLAIN,
        op,
        inputs: (0..inputs)
            .map(|index| format!("x{index}").into())
            .collect(),
        params: params
            .iter()
            .enumerate()
            .map(|(index, shape)| Param {
                name: format!("p{index}"),
                shape: shape.to_vec(),
            })
            .collect(),
        numerics,
    }
}

fn example(
    kind: u8,
    rows: usize,
    k: usize,
    data: Data,
    order: Order,
    dtype: DType,
    seed: u64,
) -> Example {
    let mut draw = Draw(seed);
    let products =
        |a: &[f32], b: &[f32]| -> Vec<f32> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
    match kind {
        // A linear layer, of sums long enough for errors to grow.
        0 => {
            let k = 4 * k;
            let m = 1 + rows;
            let x = draw.values(rows * k, data, dtype);
            let weight = draw.values(m * k, data, dtype);
            // Of every other draw a bias that cancels the first row's sums.
            let mut bias = draw.values(m, data, dtype);
            if seed.is_multiple_of(2) {
                for (column, bias) in bias.iter_mut().enumerate() {
                    let terms = products(&x[..k], &weight[column * k..(column + 1) * k]);
                    *bias = rounded(-sum(&terms, order), dtype);
                }
            }
            let plain = (0..rows * m).map(|index| {
                let (row, column) = (index / m, index % m);
                let terms = products(
                    &x[row * k..(row + 1) * k],
                    &weight[column * k..(column + 1) * k],
                );
                sum(&terms, order) + bias[column]
            });
            Example {
                plain: plain.collect(),
                step: step(
                    Op::Linear(op::Linear {
                        bias: true,
                        partials: op::Partials::ONE,
                    }),
                    1,
                    &[&[m, k], &[m]],
                    Numerics::product(dtype),
                ),
                inputs: vec![tensor(&[1, rows, k], &x, dtype)],
                params: vec![tensor(&[m, k], &weight, dtype), tensor(&[m], &bias, dtype)],
                is_sum: true,
            }
        }
        // Attention scores with ALiBi.
        1 => {
            let [q, key] = [0; 2].map(|_| draw.values(rows * k, data, dtype));
            let scale = 1.0 / (k as f32).sqrt();
            let plain = (0..rows * rows).map(|index| {
                let (row, column) = (index / rows, index % rows);
                let terms = products(
                    &q[row * k..(row + 1) * k],
                    &key[column * k..(column + 1) * k],
                );
                sum(&terms, order) * scale + rounded(0.25 * column as f32, dtype)
            });
            let op = Op::AttentionScores(op::AttentionScores {
                product_scale: scale,
                alibi: Some(Alibi {
                    scale: 1.0,
                    slopes: vec![0.25],
                    form: AlibiForm::KeyPosition,
                    sum: op::AlibiSum::InProduct,
                }),
            });
            let shape = [1, 1, rows, k];
            Example {
                plain: plain.collect(),
                step: step(op, 2, &[], Numerics::product(dtype)),
                inputs: vec![tensor(&shape, &q, dtype), tensor(&shape, &key, dtype)],
                params: Vec::new(),
                is_sum: false,
            }
        }
        // Probabilities times values.
        2 => {
            let probs: Vec<f32> = draw.values(rows * rows, Data::Positive, dtype);
            let value = draw.values(rows * k, data, dtype);
            let plain = (0..rows * k).map(|index| {
                let (row, column) = (index / k, index % k);
                let column: Vec<f32> = (0..rows).map(|at| value[at * k + column]).collect();
                sum(
                    &products(&probs[row * rows..(row + 1) * rows], &column),
                    order,
                )
            });
            Example {
                plain: plain.collect(),
                step: step(Op::Context(op::Context), 2, &[], Numerics::product(dtype)),
                inputs: vec![
                    tensor(&[1, 1, rows, rows], &probs, dtype),
                    tensor(&[1, 1, rows, k], &value, dtype),
                ],
                params: Vec::new(),
                is_sum: rows > 8,
            }
        }
        // Norms, centred and not.
        3 | 4 => {
            let x = draw.values(rows * k, data, dtype);
            let [weight, bias] = [0; 2].map(|_| draw.values(k, Data::Centred, dtype));
            let plain = x.chunks(k).flat_map(|row| {
                let mean = if kind == 3 {
                    sum(row, order) / k as f32
                } else {
                    0.0
                };
                let squares: Vec<f32> = row.iter().map(|x| (x - mean) * (x - mean)).collect();
                let scale = 1.0 / (sum(&squares, order) / k as f32 + 1e-5).sqrt();
                let each = row.iter().zip(&weight).zip(&bias);
                let each = each.map(|((x, weight), bias)| (x - mean) * scale * weight + bias);
                each.collect::<Vec<f32>>()
            });
            let op = match kind {
                3 => Op::LayerNorm(op::LayerNorm { eps: 1e-5 }),
                _ => Op::RmsNorm(op::RmsNorm { eps: 1e-5 }),
            };
            Example {
                plain: plain.collect(),
                step: step(op, 1, &[&[k], &[k]], Numerics::norm(dtype)),
                inputs: vec![tensor(&[1, rows, k], &x, dtype)],
                params: vec![tensor(&[k], &weight, dtype), tensor(&[k], &bias, dtype)],
                is_sum: false,
            }
        }
        // Softmax, masked.
        5 => {
            let scores: Vec<f32> = draw.values(rows * rows, data, dtype);
            let plain = scores.chunks(rows).enumerate().flat_map(|(row, scores)| {
                let seen = &scores[..=row];
                let max = seen.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x));
                let powers: Vec<f32> = seen.iter().map(|x| (x - max).exp()).collect();
                let total = sum(&powers, order);
                let mut out: Vec<f32> = powers.iter().map(|power| power / total).collect();
                out.resize(rows, 0.0);
                out
            });
            Example {
                plain: plain.collect(),
                step: step(
                    Op::Softmax(op::Softmax {
                        scale: 1.0,
                        mask: Mask::Causal,
                    }),
                    1,
                    &[],
                    Numerics::softmax(dtype),
                ),
                inputs: vec![tensor(&[1, 1, rows, rows], &scores, dtype)],
                params: Vec::new(),
                is_sum: false,
            }
        }
        // Rotary embeddings, by cosines and sines of the storage type.
        6 => {
            let d = 2 * (1 + k / 2);
            let x = draw.values(rows * d, data, dtype);
            let angle = |index: usize| {
                let (row, column) = (index / d, index % (d / 2));
                let frequency = 1.0 / 1e4_f32.powf(2.0 * column as f32 / d as f32);
                (row as f32 + 1000.0) * frequency
            };
            let r = |x: f32| rounded(x, dtype);
            let cos: Vec<f32> = (0..rows * d).map(|index| r(angle(index).cos())).collect();
            let sin: Vec<f32> = (0..rows * d).map(|index| r(angle(index).sin())).collect();
            let plain = (0..rows * d).map(|index| {
                let (row, column) = (index / d * d, index % d);
                let place = row + column % 2 * (d / 2) + column / 2;
                let [along, across] = [cos[place], sin[place]];
                match column % 2 {
                    0 => r(x[index] * along) - r(x[index + 1] * across),
                    _ => r(x[index] * along) + r(x[index - 1] * across),
                }
            });
            let rotary = Rotary {
                dims: d,
                pairs: RotaryPairs::Interleaved,
            };
            Example {
                plain: plain.collect(),
                step: step(
                    Op::Rotary(rotary),
                    3,
                    &[],
                    Numerics::elementwise(dtype, Rounding::EachOperation),
                ),
                inputs: vec![
                    tensor(&[1, 1, rows, d], &x, dtype),
                    tensor(&[1, rows, d], &cos, dtype),
                    tensor(&[1, rows, d], &sin, dtype),
                ],
                params: Vec::new(),
                is_sum: false,
            }
        }
        // A gate, its SiLU rounded before the product.
        7 => {
            let [gate, up] = [0; 2].map(|_| draw.values(rows * k, data, dtype));
            let pairs = gate.iter().zip(&up);
            let plain = pairs.map(|(gate, up)| rounded(gate / (1.0 + (-gate).exp()), dtype) * up);
            let shape = [1, rows, k];
            Example {
                plain: plain.collect(),
                step: step(
                    Op::Gate(op::Gate {
                        activation: Activation::Silu,
                    }),
                    2,
                    &[],
                    Numerics::elementwise(dtype, Rounding::EachOperation),
                ),
                inputs: vec![tensor(&shape, &gate, dtype), tensor(&shape, &up, dtype)],
                params: Vec::new(),
                is_sum: false,
            }
        }
        // GELU, as eager execution has it.
        _ => {
            let x = draw.values(rows * k, data, dtype);
            let r = |x: f32| rounded(x, dtype);
            let plain = x.iter().map(|x| {
                let half = r(x * 0.5);
                let inner = r(r(0.797_884_6 * x) * r(1.0 + r(r(0.044_715 * x) * x)));
                r(half * r(1.0 + r(inner.tanh())))
            });
            Example {
                plain: plain.collect(),
                step: step(
                    Op::Activation(Activation::BloomGelu),
                    1,
                    &[],
                    Numerics::elementwise(dtype, Rounding::EachOperation),
                ),
                inputs: vec![tensor(&[1, rows, k], &x, dtype)],
                params: Vec::new(),
                is_sum: false,
            }
        }
    }
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Ascending),
        Just(Order::Descending),
        Just(Order::Pairwise),
        (2_usize..33).prop_map(Order::Lanes),
    ]
}

fn data() -> impl Strategy<Value = Data> {
    prop_oneof![Just(Data::Centred), Just(Data::Positive), Just(Data::Heavy)]
}

fn dtype() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::Bf16), Just(DType::F16)]
}

/// Ratios of difference and budget, and whether half-precision elements differ as often as is
/// expected.
fn ratios(example: &Example, confidence: Confidence) -> (Vec<f64>, Option<Flips>) {
    let [inputs, params] =
        [&example.inputs, &example.params].map(|all| all.iter().collect::<Vec<&Tensor>>());
    let ours = Cpu.run(&example.step, &inputs, &params).unwrap();
    let plain = tensor(ours.shape(), &example.plain, ours.dtype());
    let [inputs, params] = [&example.inputs, &example.params]
        .map(|all| all.iter().map(Operand::given).collect::<Vec<_>>());
    let own = example
        .step
        .error_bound(&inputs, &params, &ours, confidence)
        .unwrap();
    let budget = Budget::new(&own, &own, confidence);
    let [a, b] = [&ours, &plain].map(|x| x.widened().unwrap());
    let [a, b] = [&a, &b].map(|x| x.as_slice::<f64>().unwrap());
    let pairs = a.iter().zip(b).zip(budget.allowed());
    let ratios = pairs.map(|((a, b), allowed)| {
        if a == b {
            0.0
        } else {
            (a - b).abs() / f64::from(*allowed)
        }
    });
    let unequal = compare(&plain, &ours, &Spec::default()).unwrap().unequal;
    let flips = Flips::new(unequal, &ours, &own, &own).unwrap();
    (ratios.collect(), flips)
}

#[test]
fn two_orders_of_summation_stay_within_the_budget() {
    // The same hundred draws every time, or six hundred others.
    let (cases, rng_seed) = if is_full() {
        (600, RngSeed::Random)
    } else {
        (100, RngSeed::Fixed(0))
    };
    let config = ProptestConfig {
        cases,
        rng_seed,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    // What is allowed of all elements drawn is judged of all together.
    let (elements, over) = (Cell::new(0_usize), Cell::new(0_usize));
    let sums: RefCell<Vec<f64>> = RefCell::default();
    let drawn = (
        (0_u8..9, 1_usize..40, 1_usize..600),
        any::<u64>(),
        (data(), order(), dtype()),
    );
    let mut runner = TestRunner::new(config);
    let ran = runner.run(&drawn, |((kind, rows, k), seed, (data, order, dtype))| {
        let example = example(kind, rows, k, data, order, dtype, seed);
        let (certain, _) = ratios(&example, Confidence::Deterministic);
        prop_assert!(certain.iter().all(|ratio| *ratio <= 1.0), "{:?}", order);
        let (likely, flips) = ratios(&example, Confidence::Probabilistic);
        elements.set(elements.get() + likely.len());
        over.set(over.get() + likely.iter().filter(|ratio| **ratio > 1.0).count());
        if let Some(flips) = flips {
            prop_assert!(flips.log10_p > -6.0, "{:?}", flips);
        }
        if dtype == DType::F32 && example.is_sum {
            sums.borrow_mut().extend(likely);
        }
        Ok(())
    });
    ran.unwrap();
    let (elements, over) = (elements.get(), over.get());
    let mut sums = sums.into_inner();
    sums.sort_by(f64::total_cmp);
    let median = sums[sums.len() / 2];
    println!(
        "{over} of {elements} elements over budget; median of {} sums {median:.3}",
        sums.len()
    );
    assert!(elements > 160 * cases as usize);
    assert!(10_000 * over <= elements, "{over} of {elements}");
    // Not vacuous: what is allowed is in proportion to what happens.
    assert!(median > 0.01, "{median}");
}
