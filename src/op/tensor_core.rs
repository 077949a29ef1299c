//! Dot products as NVIDIA's tensor cores compute them, to the bit, and how far that is from exact.
//!
//! A unit takes blocks of products and an accumulator, aligns all of them to the largest exponent, cuts
//! what lies below its last fraction bit, adds what is left exactly, and cuts the sum to its type: nothing
//! is rounded to nearest, so that errors are of one side (Khattak & Mikaitis 2025, arXiv 2512.07004; Xie et
//! al. 2025, arXiv 2511.10909). Equal to the latter's simulator and to published results of GPUs on all
//! vectors of tests/fixtures/tensor_core.

use super::bound::U;
use crate::tensor::Float;
use half::f16;
use serde::Serialize;

/// The unit of a GPU for one type of operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MmaUnit {
    /// The operands' type.
    pub input: MmaInput,
    /// Products that are added at once.
    pub block: usize,
    /// Fraction bits that are kept below the largest exponent.
    pub fraction: i32,
    /// The exponent that terms which are zero are given.
    pub zero_exponent: i32,
    /// The accumulator's type.
    pub output: MmaOutput,
}

/// Types of operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MmaInput {
    /// bf16.
    Bf16,
    /// fp16.
    F16,
    /// fp32 without its last 13 bits.
    Tf32,
    /// fp8, e4m3fn.
    E4m3,
    /// fp8, e5m2.
    E5m2,
}

/// Types of accumulators, and how sums are brought to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MmaOutput {
    /// fp32, toward zero.
    F32,
    /// fp32 with so many fraction bits, toward zero.
    Short(i32),
    /// fp16, to nearest even.
    F16,
}

/// A finite number as `significand · 2^(exponent − fraction bits)`, not normalised.
#[derive(Clone, Copy)]
struct Term {
    significand: i64,
    exponent: i32,
    bits: i32,
}

impl MmaUnit {
    /// The unit of a GPU of this compute capability for products of a half type that are accumulated in
    /// fp32; `None` if it has none that is known.
    pub fn of(capability: (u32, u32), input: MmaInput) -> Option<Self> {
        let (block, fraction) = match capability {
            (7, _) if input == MmaInput::F16 => (4, 23),
            (8, _) => (8, 24),
            (9, _) => (16, 25),
            _ => return None,
        };
        // A tf32 product takes the room of two.
        let block = if input == MmaInput::Tf32 {
            block / 2
        } else {
            block
        };
        Some(Self {
            input,
            block,
            fraction,
            zero_exponent: -108 - fraction,
            output: MmaOutput::F32,
        })
    }

    /// `c + Σ a·b` over all of two vectors, block after block; everything in bit patterns.
    pub fn dot(&self, a: &[u32], b: &[u32], c: u32) -> u32 {
        let blocks = a.chunks(self.block).zip(b.chunks(self.block));
        blocks.fold(c, |c, (a, b)| self.step(a, b, c))
    }

    /// The most that a sum of `terms` products of which the magnitudes sum up to `magnitudes` may be off:
    /// every block cuts `block + 1` terms below `2^−fraction` of the largest, and its sum below fp32's
    /// last bit.
    pub(super) fn bound(&self, terms: usize, magnitudes: f64) -> f64 {
        let terms_cut = (self.block + 1) as f64 * 2.0_f64.powi(-self.fraction);
        self.blocks(terms) * (terms_cut + 2.0 * U) * magnitudes
    }

    /// What such a sum `y` of terms with the squares' sum `squares` is off by, at most, on data as models
    /// have it: proportional to the number of blocks, since all of them cut to one side, and to the root
    /// mean square of the partial sums. The largest coefficient of 150,000 sums was 2.5, here it is 5 to 6.
    pub(super) fn typical(&self, terms: usize, y: f64, squares: f64) -> f64 {
        let coefficient = ((self.block + 1) as f64 * 2.0_f64.powi(24 - self.fraction) + 2.0) / 2.0;
        coefficient * self.blocks(terms) * U * (y * y / 3.0 + squares / 6.0).sqrt()
    }

    fn blocks(&self, terms: usize) -> f64 {
        terms.div_ceil(self.block) as f64
    }

    fn step(&self, a: &[u32], b: &[u32], c: u32) -> u32 {
        let mut terms = Vec::with_capacity(a.len() + 1);
        let mut infinity = None;
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (self.input.read(*a), self.input.read(*b));
            match (a, b) {
                (Number::Finite(a), Number::Finite(b)) => terms.push(Term {
                    significand: a.significand * b.significand,
                    exponent: a.exponent + b.exponent,
                    bits: a.bits + b.bits,
                }),
                (Number::Nan, _) | (_, Number::Nan) => return self.output.nan(),
                (Number::Infinity(a), Number::Infinity(b)) => {
                    if !agree(&mut infinity, a != b) {
                        return self.output.nan();
                    }
                }
                (Number::Infinity(negative), Number::Finite(x))
                | (Number::Finite(x), Number::Infinity(negative)) => {
                    if x.significand == 0 || !agree(&mut infinity, negative != (x.significand < 0))
                    {
                        return self.output.nan();
                    }
                }
            }
        }
        match self.output.read(c) {
            Number::Finite(c) => terms.push(c),
            Number::Nan => return self.output.nan(),
            Number::Infinity(negative) => {
                if !agree(&mut infinity, negative) {
                    return self.output.nan();
                }
            }
        }
        if let Some(negative) = infinity {
            return self.output.infinity(negative);
        }
        terms.retain(|term| term.significand != 0);
        let largest = terms
            .iter()
            .map(|term| term.exponent)
            .fold(self.zero_exponent, i32::max);
        let last = largest - self.fraction;
        let cut = |term: &Term| {
            let magnitude = term.significand.abs();
            let up = term.exponent - term.bits - last;
            let magnitude = if up >= 0 {
                magnitude << up
            } else {
                magnitude.checked_shr(up.unsigned_abs()).unwrap_or(0)
            };
            magnitude * term.significand.signum()
        };
        self.output.of(terms.iter().map(cut).sum(), last)
    }
}

/// Whether an infinity has the sign of those before it, if there were any.
fn agree(before: &mut Option<bool>, negative: bool) -> bool {
    *before.get_or_insert(negative) == negative
}

enum Number {
    Finite(Term),
    /// Whether it is negative.
    Infinity(bool),
    Nan,
}

/// How a floating type lays its bits out.
struct Layout {
    exponent_bits: u32,
    fraction_bits: u32,
    /// Whether the largest exponent is of infinities and NaNs, or of numbers but for the last NaN.
    has_infinity: bool,
}

impl Layout {
    fn read(&self, bits: u32) -> Number {
        let fraction = bits & ((1 << self.fraction_bits) - 1);
        let exponent = bits >> self.fraction_bits & ((1 << self.exponent_bits) - 1);
        let negative = bits >> (self.fraction_bits + self.exponent_bits) & 1 == 1;
        let top = (1 << self.exponent_bits) - 1;
        if exponent == top && self.has_infinity {
            return if fraction == 0 {
                Number::Infinity(negative)
            } else {
                Number::Nan
            };
        }
        if exponent == top && fraction == (1 << self.fraction_bits) - 1 {
            return Number::Nan;
        }
        let bias = (1 << (self.exponent_bits - 1)) - 1;
        let hidden = if exponent == 0 {
            0
        } else {
            1_i64 << self.fraction_bits
        };
        let magnitude = hidden + i64::from(fraction);
        Number::Finite(Term {
            significand: if negative { -magnitude } else { magnitude },
            exponent: exponent.max(1) as i32 - bias,
            bits: self.fraction_bits as i32,
        })
    }
}

const F32: Layout = Layout {
    exponent_bits: 8,
    fraction_bits: 23,
    has_infinity: true,
};
const F16: Layout = Layout {
    exponent_bits: 5,
    fraction_bits: 10,
    has_infinity: true,
};

impl MmaInput {
    fn read(self, bits: u32) -> Number {
        let layout = |exponent_bits, fraction_bits, has_infinity| Layout {
            exponent_bits,
            fraction_bits,
            has_infinity,
        };
        match self {
            Self::Bf16 => layout(8, 7, true).read(bits),
            Self::F16 => F16.read(bits),
            Self::Tf32 => layout(8, 10, true).read(bits >> 13),
            Self::E4m3 => layout(4, 3, false).read(bits),
            Self::E5m2 => layout(5, 2, true).read(bits),
        }
    }
}

impl MmaOutput {
    fn read(self, bits: u32) -> Number {
        match self {
            Self::F32 | Self::Short(_) => F32.read(bits),
            Self::F16 => F16.read(bits),
        }
    }

    fn nan(self) -> u32 {
        match self {
            Self::F32 | Self::Short(_) => 0x7FFF_FFFF,
            Self::F16 => 0x7FFF,
        }
    }

    fn infinity(self, negative: bool) -> u32 {
        match self {
            Self::F32 | Self::Short(_) => f32::INFINITY.to_bits() | u32::from(negative) << 31,
            Self::F16 => u32::from(f16::INFINITY.to_bits() | u16::from(negative) << 15),
        }
    }

    /// `sum · 2^last` in this type.
    fn of(self, sum: i64, last: i32) -> u32 {
        let magnitude = sum.unsigned_abs();
        let digits = (64 - magnitude.leading_zeros()) as i32;
        let significant = match self {
            // Fewer than 53 digits, which fp64 holds: one rounding.
            Self::F16 => {
                let value = <f16 as Float>::nearest(sum as f64 * power(last));
                // There is no negative zero.
                return u32::from(if value == f16::ZERO {
                    0
                } else {
                    value.to_bits()
                });
            }
            Self::F32 => 24,
            Self::Short(bits) => bits + 1,
        };
        // Nothing lies below the least subnormal.
        let dropped = (digits - significant).max(-149 - last).max(0);
        let kept = magnitude.checked_shr(dropped.unsigned_abs()).unwrap_or(0);
        if kept == 0 {
            return 0;
        }
        let value = (kept as f64 * power(last + dropped)) as f32;
        value.to_bits() | u32::from(sum < 0) << 31
    }
}

/// A power of two in fp64, whose exponent may be beyond fp32's.
fn power(exponent: i32) -> f64 {
    2.0_f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, Tensor, npz};
    use std::path::{Path, PathBuf};

    fn fixtures() -> PathBuf {
        // scripts that have more vectors name their folder.
        let folder = std::env::var_os("PARITY_TENSOR_CORE").map(PathBuf::from);
        folder.unwrap_or_else(|| {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tensor_core")
        })
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        match tensor.dtype() {
            DType::I32 => tensor
                .as_slice::<i32>()
                .unwrap()
                .iter()
                .map(|x| *x as u32)
                .collect(),
            DType::I16 => tensor
                .as_slice::<i16>()
                .unwrap()
                .iter()
                .map(|x| u32::from(*x as u16))
                .collect(),
            _ => tensor
                .as_slice::<u8>()
                .unwrap()
                .iter()
                .map(|x| u32::from(*x))
                .collect(),
        }
    }

    /// The unit of a file's name: `sm90.bf16.f32`, `H100.f16.f32`.
    fn unit(name: &str) -> MmaUnit {
        let parts: Vec<&str> = name.split('.').collect();
        let capability = match parts[0] {
            "sm70" | "V100" => (7, 0),
            "sm80" | "A100" | "L40S" => (8, 0),
            "sm89" => (8, 9),
            _ => (9, 0),
        };
        let input = match parts[1] {
            "bf16" => MmaInput::Bf16,
            "f16" => MmaInput::F16,
            "tf32" => MmaInput::Tf32,
            "e4m3" => MmaInput::E4m3,
            _ => MmaInput::E5m2,
        };
        let unit = MmaUnit::of(capability, input).unwrap();
        match (input, parts[2]) {
            // A product of bytes takes half the room of one of halves.
            (MmaInput::E4m3 | MmaInput::E5m2, _) => MmaUnit {
                block: 2 * unit.block,
                fraction: 13,
                output: MmaOutput::Short(13),
                ..unit
            },
            (_, "f16") => MmaUnit {
                zero_exponent: unit.zero_exponent + 112,
                output: MmaOutput::F16,
                ..unit
            },
            _ => unit,
        }
    }

    #[test]
    fn units_give_the_bits_of_every_vector() {
        let mut compared = 0;
        let mut kinds = 0;
        for entry in fixtures().read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|ending| ending != "npz") {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let npz = npz::Archive::open(&path).unwrap();
            let unit = unit(&name);
            kinds += 1;
            for prefix in ["", "one_", "four_"] {
                let read = |array: &str| npz.read(&format!("{prefix}{array}"), None).ok();
                let Some(a) = read("a") else {
                    continue;
                };
                let k = a.row_len();
                let [a, b, c, d] =
                    [Some(a), read("b"), read("c"), read("d")].map(|x| bits(&x.unwrap()));
                for (row, (c, d)) in c.iter().zip(&d).enumerate() {
                    let range = row * k..(row + 1) * k;
                    let found = unit.dot(&a[range.clone()], &b[range], *c);
                    assert_eq!(found, *d, "{name} {prefix}{row}: {found:#x}, not {d:#x}");
                    compared += 1;
                }
            }
        }
        println!("{compared} dot products of {kinds} kinds");
        assert!(
            compared > 3000 && kinds == 27,
            "{compared} of {kinds} kinds"
        );
    }

    /// SplitMix64's finaliser.
    fn mixed(number: u64) -> u64 {
        let z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// An operand of scripts/make_gpu_products.py, whose data it says.
    fn operand(data: &str, seed: u64, rows: usize, depth: usize) -> Vec<f32> {
        let value = |bits: u64| match data {
            "normal" => {
                let pieces = [0, 15, 30, 45].map(|piece| (bits >> piece & 0x7FFF) as i64);
                (pieces.iter().sum::<i64>() - 2 * 32767) as f32 * 2.0_f32.powi(-14)
            }
            _ => {
                let even = (bits >> 40) as f32 * 2.0_f32.powi(-24);
                let squarings = if data == "peaked" { 3 } else { 0 };
                (0..squarings).fold(even, |x, _| x * x)
            }
        };
        let numbers = 0..(rows * depth) as u64;
        numbers
            .map(|number| value(mixed((seed << 40) + number)))
            .collect()
    }

    fn value_of(input: MmaInput, bits: u32) -> f64 {
        match input {
            MmaInput::Bf16 => half::bf16::from_bits(bits as u16).into(),
            _ => f16::from_bits(bits as u16).into(),
        }
    }

    /// What an H100 made of products of 64 to 14336 terms (cuBLAS 13.1, `nvjet` kernels): the unit's bits,
    /// in one walk or in chunks of whole 64s whose number shows in the values.
    #[test]
    fn an_h100_sums_as_the_unit_does() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/h100_products.npz");
        let npz = npz::Archive::open(path).unwrap();
        // The deep ones take half a minute where the compiler does not optimise.
        let is_full = std::env::var_os("PARITY_FULL").is_some_and(|value| value == "1");
        let (mut walks, mut products, mut largest) = (0, 0, 0.0);
        for data in ["normal", "positive", "peaked"] {
            for k in [64, 256, 1024, 4096, 14336] {
                if !is_full && (data, k) > ("normal", 1024) {
                    continue;
                }
                let weights = if data == "normal" {
                    "normal"
                } else {
                    "positive"
                };
                let (x, w) = (operand(data, 1, 20, k), operand(weights, 2, 8, k));
                for (dtype, input) in [("bf16", MmaInput::Bf16), ("fp16", MmaInput::F16)] {
                    let unit = MmaUnit::of((9, 0), input).unwrap();
                    let bits_of = |x: &f32| match input {
                        MmaInput::Bf16 => u32::from(half::bf16::from_f32(*x).to_bits()),
                        _ => u32::from(f16::from_f32(*x).to_bits()),
                    };
                    let [x, w]: [Vec<u32>; 2] =
                        [&x, &w].map(|values| values.iter().map(bits_of).collect());
                    for n in [64, 4096] {
                        let name = format!("{dtype}.{data}.k{k}.n{n}.sums");
                        let recorded = bits(&npz.read(&name, None).unwrap());
                        let unequal = |split: usize| {
                            let chunk = k.div_ceil(64).div_ceil(split) * 64;
                            let differs = |index: &usize| {
                                let (row, column) = (index / 8 * k, index % 8 * k);
                                let parts = x[row..row + k]
                                    .chunks(chunk)
                                    .zip(w[column..column + k].chunks(chunk));
                                let parts = parts.map(|(x, w)| f32::from_bits(unit.dot(x, w, 0)));
                                parts.reduce(|sum, part| sum + part)
                                    != Some(f32::from_bits(recorded[*index]))
                            };
                            (0..recorded.len()).filter(differs).count()
                        };
                        let split = (1..=16).find(|split| unequal(*split) == 0);
                        assert!(
                            split.is_some(),
                            "{name}: {} unequal in one walk",
                            unequal(1)
                        );
                        walks += usize::from(split == Some(1));
                        products += 1;
                        println!("{name}: {split:?}");
                        for (index, sum) in recorded.iter().enumerate() {
                            let (row, column) = (index / 8 * k, index % 8 * k);
                            let terms = || {
                                let pairs = x[row..row + k].iter().zip(&w[column..column + k]);
                                pairs.map(|(a, b)| value_of(input, *a) * value_of(input, *b))
                            };
                            let exact: f64 = terms().sum();
                            let error = (f64::from(f32::from_bits(*sum)) - exact).abs();
                            let magnitudes = terms().map(f64::abs).sum();
                            let squares = terms().map(|p| p * p).sum();
                            assert!(error <= unit.bound(k, magnitudes), "{name}: {error:e}");
                            let typical = unit.typical(k, exact, squares);
                            assert!(error <= typical, "{name}: {error:e}, not {typical:e}");
                            largest = f64::max(largest, error / typical);
                        }
                    }
                }
            }
        }
        // The others are split in two, three and eleven, whose fp32 sums are added in order.
        let expected = if is_full { (42, 60) } else { (12, 12) };
        assert_eq!((walks, products), expected);
        // What is said of errors is not vacuous, either.
        println!("largest error over what is typical at most: {largest:.2}");
        assert!(largest > 0.1);
    }
}
