//! What the kernels compute, said again: from the formulas and trees in their headers, on whole rows
//! and without threads. Approximate functions are those of the shim: fp64, rounded.

use half::f16;
use parity::op::Activation;
use parity::tensor::{DType, Float};
use std::any::TypeId;

/// Values joined with those half their number above, until one is left: a warp's shuffle by 16, 8,
/// 4, 2, 1 as its first lane sees it.
pub fn halves<V: Copy>(values: &[V], join: &impl Fn(V, V) -> V) -> V {
    if let [last] = values {
        return *last;
    }
    let (low, high) = values.split_at(values.len() / 2);
    let joined: Vec<V> = low.iter().zip(high).map(|(a, b)| join(*a, *b)).collect();
    halves(&joined, join)
}

/// Neighbours joined, then neighbours of those.
pub fn neighbours<V: Copy>(values: &[V], join: &impl Fn(V, V) -> V) -> V {
    if let [last] = values {
        return *last;
    }
    let (low, high) = values.split_at(values.len() / 2);
    join(neighbours(low, join), neighbours(high, join))
}

/// How values of a warp are joined.
pub type Tree<V> = fn(&[V], &dyn Fn(V, V) -> V) -> V;

pub fn by_halves<V: Copy>(values: &[V], join: &dyn Fn(V, V) -> V) -> V {
    halves(values, &join)
}

pub fn by_neighbours<V: Copy>(values: &[V], join: &dyn Fn(V, V) -> V) -> V {
    neighbours(values, &join)
}

/// Each warp by itself, then the warps by halves.
fn block<V: Copy>(threads: &[V], tree: Tree<V>, join: &dyn Fn(V, V) -> V) -> V {
    let warps: Vec<V> = threads.chunks(32).map(|warp| tree(warp, join)).collect();
    halves(&warps, &join)
}

/// The elements of thread `thread` of `threads`, which take vectors in turn.
fn dealt(
    thread: usize,
    threads: usize,
    vector: usize,
    length: usize,
) -> impl Iterator<Item = usize> {
    (0..length).filter(move |i| i / vector % threads == thread)
}

pub fn rsqrt(x: f32) -> f32 {
    (1.0 / f64::from(x).sqrt()) as f32
}

pub fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}

pub fn tanh(x: f32) -> f32 {
    f64::from(x).tanh() as f32
}

pub fn erf(x: f32) -> f32 {
    libm::erf(x.into()) as f32
}

/// Subnormals are zeros, for operands and results.
pub mod flushing {
    fn flushed(x: f32) -> f32 {
        if x.is_subnormal() {
            0.0_f32.copysign(x)
        } else {
            x
        }
    }
    pub fn add(a: f32, b: f32) -> f32 {
        flushed(flushed(a) + flushed(b))
    }
    pub fn sub(a: f32, b: f32) -> f32 {
        flushed(flushed(a) - flushed(b))
    }
    pub fn mul(a: f32, b: f32) -> f32 {
        flushed(flushed(a) * flushed(b))
    }
    pub fn fma(a: f32, b: f32, c: f32) -> f32 {
        flushed(flushed(a).mul_add(flushed(b), flushed(c)))
    }
    pub fn recip(x: f32) -> f32 {
        flushed(1.0 / flushed(x))
    }
    pub fn rsqrt(x: f32) -> f32 {
        super::rsqrt(flushed(x))
    }
    pub fn exp2(x: f32) -> f32 {
        flushed(f64::from(flushed(x)).exp2() as f32)
    }
}

/// Mean, sum of squared distances from it, count.
pub type Moments = [f32; 3];

fn widened<T: Float>(row: &[T]) -> Vec<f32> {
    row.iter().map(|value| value.to_f32()).collect()
}

/// PyTorch's vectorised layer normalisation; `tree` is how a warp joins its lanes.
pub fn layer_norm<T: Float>(
    x: &[T],
    weight: &[T],
    bias: &[T],
    eps: f32,
    tree: Tree<Moments>,
) -> Vec<T> {
    let row = widened(x);
    let with = |[mean, squares, count]: Moments, x: f32| {
        let new = (x - mean).mul_add(1.0 / (count + 1.0), mean);
        [new, (x - mean).mul_add(x - new, squares), count + 1.0]
    };
    let join = |b: Moments, a: Moments| {
        let (count, delta) = (a[2] + b[2], b[0] - a[0]);
        if count == 0.0 {
            return [0.0; 3];
        }
        let [fa, fb] = [a[2], b[2]].map(|part| part * (1.0 / count));
        let squares = fb.mul_add(a[2] * (delta * delta), a[1] + b[1]);
        [a[0].mul_add(fa, fb * b[0]), squares, count]
    };
    let threads: Vec<Moments> = (0..128)
        .map(|thread| {
            let own = dealt(thread, 128, 4, row.len());
            own.fold([0.0; 3], |moments, i| with(moments, row[i]))
        })
        .collect();
    let [mean, squares, _] = block(&threads, tree, &join);
    let inverse = rsqrt(squares / row.len() as f32 + eps);
    (0..row.len())
        .map(|i| {
            let normal = inverse * (row[i] - mean);
            T::from_f32(weight[i].to_f32().mul_add(normal, bias[i].to_f32()))
        })
        .collect()
}

/// PyTorch's layer normalisation of rows that cannot be read in vectors.
pub fn layer_norm_scalar<T: Float>(x: &[T], weight: &[T], bias: &[T], eps: f32) -> Vec<T> {
    let row = widened(x);
    let join = |a: Moments, b: Moments| match (a[2] == 0.0, b[2] == 0.0) {
        (true, _) => b,
        (_, true) => a,
        _ => {
            let (delta, count) = (b[0] - a[0], a[2] + b[2]);
            let ratio = b[2] / count;
            let squares = (delta * delta * a[2]).mul_add(ratio, a[1] + b[1]);
            [delta.mul_add(ratio, a[0]), squares, count]
        }
    };
    let mut threads = vec![[0.0; 3]; 512];
    for (i, x) in row.iter().enumerate() {
        let [mean, squares, count] = threads[i % 512];
        let new = mean + (x - mean) / (count + 1.0);
        threads[i % 512] = [new, (x - mean).mul_add(x - new, squares), count + 1.0];
    }
    let mut warps: Vec<Moments> = threads.chunks(32).map(|warp| halves(warp, &join)).collect();
    warps.resize(32, [0.0; 3]);
    let [mean, squares, count] = halves(&warps, &join);
    assert_eq!(count, row.len() as f32);
    let inverse = rsqrt(squares / count + eps);
    (0..row.len())
        .map(|i| {
            let normal = (row[i] - mean) * inverse;
            T::from_f32(weight[i].to_f32().mul_add(normal, bias[i].to_f32()))
        })
        .collect()
}

/// PyTorch's fused root-mean-square normalisation.
pub fn rms_norm<T: Float>(x: &[T], weight: &[T], eps: f32) -> Vec<T> {
    let row = widened(x);
    let threads: Vec<f32> = (0..128)
        .map(|thread| {
            dealt(thread, 128, 4, row.len()).fold(0.0, |sum, i| row[i].mul_add(row[i], sum))
        })
        .collect();
    let squares = block(&threads, by_halves, &|a, b| a + b);
    let inverse = rsqrt(squares / row.len() as f32 + eps);
    let pairs = row.iter().zip(weight);
    pairs
        .map(|(x, weight)| T::from_f32(weight.to_f32() * (inverse * x)))
        .collect()
}

/// Apex's layer normalisation, built with fast arithmetic. The row starts `offset` elements after a
/// 32-bit boundary.
pub fn megatron_layer_norm<T: Float>(
    x: &[T],
    weight: &[T],
    bias: &[T],
    eps: f32,
    offset: usize,
) -> Vec<T> {
    use flushing::{add, fma, mul, recip, rsqrt, sub};
    let row = widened(x);
    let half = TypeId::of::<T>() == TypeId::of::<f16>();
    let (vector, head) = if half { (8, offset % 2) } else { (4, 0) };
    let with = |[mean, squares, count]: Moments, x: f32| {
        let new = fma(sub(x, mean), recip(count + 1.0), mean);
        [new, fma(sub(x, mean), sub(x, new), squares), count + 1.0]
    };
    let join = |a: Moments, b: Moments| {
        let count = a[2] + b[2];
        if count == 0.0 {
            return [0.0; 3];
        }
        let [fa, fb] = [a[2], b[2]].map(|part| mul(recip(count), part));
        let delta = sub(b[0], a[0]);
        let between = mul(fb, mul(fa, mul(delta, delta)));
        [
            fma(fa, a[0], mul(fb, b[0])),
            fma(count, between, add(a[1], b[1])),
            count,
        ]
    };
    // A vector that the row's end cuts is read element by element by the thread it belongs to.
    let mut threads = vec![[0.0; 3]; 128];
    for (i, x) in row.iter().enumerate() {
        let thread = if i < head {
            0
        } else {
            (i - head) / vector % 128
        };
        threads[thread] = with(threads[thread], *x);
    }
    let [mean, squares, _] = block(&threads, by_neighbours, &join);
    let inverse = rsqrt(add(mul(squares, recip(row.len() as f32)), eps));
    (0..row.len())
        .map(|i| {
            let normal = mul(inverse, sub(row[i], mean));
            T::from_f32(fma(normal, weight[i].to_f32(), bias[i].to_f32()))
        })
        .collect()
}

/// Which thread adds which keys of a row, in increasing order of keys.
pub enum Order {
    /// A warp's lanes, in turn.
    Lanes(usize),
    /// A block's threads take vectors in turn.
    Vectors { threads: usize, vector: usize },
    /// The same from a 16-byte boundary on, `head` elements after one.
    Generic {
        threads: usize,
        vector: usize,
        head: usize,
    },
}

impl Order {
    fn owners(&self, keys: usize) -> Vec<usize> {
        match *self {
            Self::Lanes(width) => (0..keys).map(|key| key % width).collect(),
            Self::Vectors { threads, vector } => {
                (0..keys).map(|key| key / vector % threads).collect()
            }
            Self::Generic {
                threads,
                vector,
                head,
            } => {
                let start = if head > 0 { threads - head } else { 0 };
                let whole = (keys - start) / (vector * threads) * (vector * threads);
                (0..keys)
                    .map(|key| match key.checked_sub(start) {
                        None => key + head,
                        Some(at) if at < whole => at / vector % threads,
                        Some(at) => (at - whole) % threads,
                    })
                    .collect()
            }
        }
    }

    fn threads(&self) -> usize {
        match *self {
            Self::Lanes(width) => width,
            Self::Vectors { threads, .. } | Self::Generic { threads, .. } => threads,
        }
    }
}

/// PyTorch's softmax of a row of which the first `seen` keys are seen.
pub fn softmax<T: Float>(scores: &[T], seen: usize, scale: f32, order: &Order) -> Vec<T> {
    let values: Vec<f32> = scores[..seen]
        .iter()
        .map(|score| score.to_f32() * scale)
        .collect();
    let most = values.iter().copied().fold(f32::MIN, f32::max);
    let mut powers: Vec<f32> = values.iter().map(|value| exp(value - most)).collect();
    powers.resize(scores.len(), 0.0);
    let mut sums = vec![0.0; order.threads()];
    for (owner, power) in order.owners(scores.len()).into_iter().zip(&powers) {
        sums[owner] += power;
    }
    let add = |a: f32, b: f32| a + b;
    let mut warps: Vec<f32> = sums.chunks(32).map(|warp| halves(warp, &add)).collect();
    warps.resize(warps.len().next_power_of_two(), 0.0);
    let sum = halves(&warps, &add);
    powers
        .iter()
        .map(|power| T::from_f32(power / sum))
        .collect()
}

/// Megatron's fused causal softmax of the row of a query.
pub fn megatron_softmax<T: Float>(scores: &[T], query: usize, scale: f32) -> Vec<T> {
    use flushing::{add, exp2, mul, recip, sub};
    let width = scores.len().next_power_of_two().min(32);
    let run = if scores.len() > 64 { 4 } else { 1 };
    let values: Vec<f32> = scores[..=query]
        .iter()
        .map(|score| mul(score.to_f32(), scale))
        .collect();
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers = values
        .iter()
        .map(|value| exp2(mul(sub(*value, most), std::f32::consts::LOG2_E)));
    let powers: Vec<f32> = powers.collect();
    let mut sums = vec![0.0; width];
    for (key, power) in powers.iter().enumerate() {
        let lane = key / run % width;
        sums[lane] = add(sums[lane], *power);
    }
    let inverse = recip(halves(&sums, &add));
    (0..scores.len())
        .map(|key| T::from_f32(powers.get(key).map_or(0.0, |power| mul(inverse, *power))))
        .collect()
}

/// An activation; `round` is what is done after every operation.
pub fn activation(activation: Activation, x: f32, round: &dyn Fn(f32) -> f32) -> f32 {
    let positive = if x < 0.0 { 0.0 } else { x };
    let logistic = |x: f32| round(1.0 + round(exp(round(-x))));
    match activation {
        Activation::BloomGelu => {
            let cubic = round(round(0.044_715 * x) * x);
            let inner = round(round(0.797_884_6 * x) * round(1.0 + cubic));
            round(round(x * 0.5) * round(1.0 + round(tanh(inner))))
        }
        Activation::Gelu => {
            let inner = round(x * std::f32::consts::FRAC_1_SQRT_2);
            round(round(x * 0.5) * round(1.0 + round(erf(inner))))
        }
        Activation::QuickGelu => round(x * round(1.0 / logistic(round(1.702 * x)))),
        Activation::Silu => round(x / logistic(x)),
        Activation::Relu => positive,
        Activation::ReluSquared => round(positive * positive),
        Activation::GeluNew => {
            let cubic = round(0.044_715 * round(round(x * x) * x));
            let inner = round(0.797_884_6 * round(x + cubic));
            round(round(x * 0.5) * round(1.0 + round(tanh(inner))))
        }
        _ => panic!("{activation:?} is not modelled"),
    }
}

/// The rounding of a storage type, or none.
pub fn rounding<T: Float>(each: bool) -> impl Fn(f32) -> f32 {
    move |value| {
        if each && T::DTYPE != DType::F32 {
            T::from_f32(value).to_f32()
        } else {
            value
        }
    }
}
