//! The deviation of a step's result.

use super::U;
use super::carried::Carried;
use super::deviation::{Confidence, Deviation, Storage};
use super::product::{Magnitudes, propagated};
use super::row::{Norm, Row, Softmax};
use crate::backend::formula::{self, Real};
use crate::backend::{gather, split_heads};
use crate::error::{Error, Result};
use crate::plan::{Activation, AlibiForm, Mask, Op, Rotary, Rounding, Step};
use crate::tensor::{DType, Float, Tensor, with_float};
use ndarray::{Array2, ArrayView2, ArrayViewD, IxDyn};
use rayon::prelude::*;
use std::borrow::Cow;

/// A value that a step reads, and how far it may be from exact; `None` if it is given.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// The value.
    pub value: &'a Tensor,
    /// Its deviation.
    pub deviation: Option<&'a Deviation>,
}

impl<'a> Operand<'a> {
    /// A value that is the same on both sides.
    pub fn given(value: &'a Tensor) -> Self {
        Self {
            value,
            deviation: None,
        }
    }

    /// Whether it is.
    pub fn is_given(&self) -> bool {
        self.deviation.is_none()
    }
}

/// How far a correct implementation's result of a step may be from the exact one. `output` is the
/// result of any of them.
///
/// # Errors
/// [`Error::Mismatch`] if the arrays are not those of the step.
pub fn deviation(
    step: &Step,
    inputs: &[Operand<'_>],
    params: &[Operand<'_>],
    output: &Tensor,
    confidence: Confidence,
) -> Result<Deviation> {
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.value.shape()).collect();
    if step.output_shape(&shapes)? != output.shape() || step.params.len() != params.len() {
        return Err(Error::Mismatch {
            at: step.id.to_string(),
            expected: format!("the result of {}", step.op),
            found: format!("{output:?}"),
        });
    }
    let evaluation = Evaluation {
        step,
        inputs: &wide(inputs)?,
        params: &wide(params)?,
        output: &Wide::of(&Operand::given(output))?,
        confidence,
    };
    evaluation.run(inputs, params)
}

fn wide<'a>(operands: &[Operand<'a>]) -> Result<Vec<Wide<'a>>> {
    operands.iter().map(Wide::of).collect()
}

/// An operand in fp32.
struct Wide<'a> {
    values: Cow<'a, [f32]>,
    shape: &'a [usize],
    deviation: Option<&'a Deviation>,
}

impl<'a> Wide<'a> {
    /// Empty for what is no floating value: token ids have no deviation.
    fn of(operand: &Operand<'a>) -> Result<Self> {
        let value = operand.value;
        let values = with_float!(value.dtype(), T => T::widened(value.as_slice::<T>()?), else Cow::default());
        Ok(Self {
            values,
            shape: value.shape(),
            deviation: operand.deviation,
        })
    }

    /// Elements `index·len..` of the deviation.
    fn deviation(&self, index: usize, len: usize) -> Row<'a> {
        let range = index * len..(index + 1) * len;
        self.deviation
            .map(|all| (&all.rounding[range.clone()], &all.spread[range]))
    }

    fn row(&self, index: usize, len: usize) -> &[f32] {
        &self.values[index * len..(index + 1) * len]
    }

    fn matrix(&self, index: usize, shape: [usize; 2]) -> Matrix<'_> {
        let len = shape[0] * shape[1];
        let view = |data| ArrayView2::from_shape(shape, data).expect("cut to one matrix");
        Matrix {
            values: view(self.row(index, len)),
            deviation: self
                .deviation(index, len)
                .map(|(rounding, spread)| [view(rounding), view(spread)]),
        }
    }
}

/// A matrix of an operand and of its deviations.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: ArrayView2<'a, f32>,
    deviation: Option<[ArrayView2<'a, f32>; 2]>,
}

impl<'a> Matrix<'a> {
    fn transposed(self) -> Self {
        Self {
            values: self.values.reversed_axes(),
            deviation: self.deviation.map(|all| all.map(ArrayView2::reversed_axes)),
        }
    }

    fn rounding(self) -> Option<ArrayView2<'a, f32>> {
        self.deviation.map(|[rounding, _]| rounding)
    }

    fn spread(self) -> Option<ArrayView2<'a, f32>> {
        self.deviation.map(|[_, spread]| spread)
    }
}

/// Deviations of the sums of `x · weightᵀ`, from both operands and from the summation.
struct Sums {
    magnitudes: Magnitudes,
    rounding: Option<Array2<f32>>,
    spread: Option<Array2<f32>>,
    confidence: Confidence,
}

impl Sums {
    fn new(x: Matrix<'_>, weight: Matrix<'_>, confidence: Confidence) -> Self {
        let values = [x.values, weight.values];
        let squares = confidence == Confidence::Probabilistic;
        Self {
            magnitudes: Magnitudes::new(x.values, weight.values, confidence),
            rounding: propagated(values, [x.rounding(), weight.rounding()], false),
            spread: propagated(values, [x.spread(), weight.spread()], squares),
            confidence,
        }
    }

    /// Rounding and spread of the sum `y` of `terms` terms at a place of the product.
    #[inline(always)]
    fn at(&self, place: [usize; 2], y: f64, terms: usize) -> [f64; 2] {
        let magnitude = f64::from(self.magnitudes.of[place]);
        let own = self.magnitudes.spread(y, magnitude, terms);
        let of = |all: &Option<Array2<f32>>| all.as_ref().map_or(0.0, |all| all[place].into());
        let spread = self.confidence.join(own, of(&self.spread));
        [of(&self.rounding), spread]
    }
}

struct Evaluation<'a> {
    step: &'a Step,
    inputs: &'a [Wide<'a>],
    params: &'a [Wide<'a>],
    output: &'a Wide<'a>,
    confidence: Confidence,
}

impl Evaluation<'_> {
    fn run(&self, inputs: &[Operand<'_>], params: &[Operand<'_>]) -> Result<Deviation> {
        Ok(match &self.step.op {
            Op::Embedding => self.embedding(inputs[0].value, params[0])?,
            Op::LayerNorm { eps } => self.norm(*eps, true),
            Op::RmsNorm { eps } => self.norm(*eps, false),
            Op::Linear { partials, .. } => self.linear(*partials),
            Op::SplitHeads {
                part,
                layout,
                heads,
                ..
            } => {
                let shape = IxDyn(self.inputs[0].shape);
                let split = |all: &[f32]| {
                    let fused = ArrayViewD::from_shape(shape.clone(), all).expect("its shape");
                    split_heads(fused, *part, *layout, *heads)
                };
                match self.inputs[0].deviation {
                    None => Deviation::none(self.output.values.len()),
                    Some(all) => Deviation {
                        rounding: split(&all.rounding),
                        spread: split(&all.spread),
                    },
                }
            }
            Op::AttentionScores {
                product_scale,
                alibi_scale,
                alibi_slopes,
                alibi_form,
            } => {
                let scales = [*product_scale, *alibi_scale];
                self.scores(scales, alibi_slopes, *alibi_form)
            }
            Op::Softmax { scale, mask } => self.softmax((*scale).into(), *mask),
            Op::Context => self.context(),
            Op::AddBias => {
                let width = self.params[0].values.len();
                self.each(|index| {
                    let bias = element(&self.params[0], index % width);
                    self.sum(element(&self.inputs[0], index), bias)
                })
            }
            Op::Add => self.each(|index| {
                let other = element(&self.inputs[1], index);
                self.sum(element(&self.inputs[0], index), other)
            }),
            Op::Rotary(rotary) => self.rotary(rotary),
            Op::Gate(activation) => self.gate(*activation),
            Op::Activation(activation) => self.map(|x| formula::activation(*activation, x)),
            Op::Scale { factor } => self.map(|x| Carried::constant(*factor) * x),
            Op::SoftCap { cap } => self.map(|x| formula::soft_cap(*cap, x)),
        })
    }

    fn out(&self) -> DType {
        self.step.numerics.out
    }

    /// Unit roundoff of the type that every single operation is rounded to; 0 if none is.
    fn each_operation(&self) -> f64 {
        match self.step.numerics.rounding {
            Rounding::Once => 0.0,
            Rounding::EachOperation => self.out().unit_roundoff().unwrap_or(0.0),
        }
    }

    /// `of(index)` gives rounding and spread of an element before it is stored.
    fn each(&self, of: impl Fn(usize) -> [f64; 2] + Sync) -> Deviation {
        const CHUNK: usize = 1 << 14;
        self.grid(CHUNK, |chunk, offset, _| of(chunk * CHUNK + offset))
    }

    /// `of(row, column, value)` gives rounding and spread of an element before it is stored.
    fn grid(&self, width: usize, of: impl Fn(usize, usize, f64) -> [f64; 2] + Sync) -> Deviation {
        self.filled(width, |row, to| {
            for column in 0..to.values.len() {
                let [rounding, spread] = of(row, column, to.values[column].into());
                to.put(column, rounding, spread);
            }
        })
    }

    /// `of(row, emit)` emits offset, rounding and spread of the elements of a row before they are
    /// stored; what it leaves out is exactly 0.
    fn rows(
        &self,
        width: usize,
        of: impl Fn(usize, &mut dyn FnMut(usize, f64, f64)) + Sync,
    ) -> Deviation {
        self.filled(width, |row, to| {
            of(row, &mut |offset, rounding, spread| {
                to.put(offset, rounding, spread)
            });
        })
    }

    /// Fills rows in parallel.
    fn filled(&self, width: usize, fill: impl Fn(usize, &mut Elements<'_>) + Sync) -> Deviation {
        let mut all = Deviation::none(self.output.values.len());
        if all.is_empty() {
            return all;
        }
        let storage = Storage::of(self.out());
        all.rounding
            .par_chunks_mut(width)
            .zip(all.spread.par_chunks_mut(width))
            .zip(self.output.values.par_chunks(width))
            .enumerate()
            .for_each(|(row, ((roundings, spreads), values))| {
                let mut elements = Elements {
                    storage,
                    values,
                    roundings,
                    spreads,
                };
                fill(row, &mut elements);
            });
        all
    }

    fn embedding(&self, tokens: &Tensor, weight: Operand<'_>) -> Result<Deviation> {
        let Some(all) = weight.deviation else {
            return Ok(Deviation::none(self.output.values.len()));
        };
        let gather = |rows: &[f32]| {
            let rows = Tensor::from_vec(weight.value.shape(), rows.to_vec())?;
            gather::<f32>(tokens, &rows)
        };
        Ok(Deviation {
            rounding: gather(&all.rounding)?,
            spread: gather(&all.spread)?,
        })
    }

    fn norm(&self, eps: f64, centred: bool) -> Deviation {
        let [x, weight] = [&self.inputs[0], &self.params[0]];
        let width = weight.values.len();
        let norm = Norm {
            eps,
            centred,
            before_weight: self.each_operation(),
            weight: &weight.values,
            weight_deviation: weight.deviation(0, width),
            bias_deviation: self.params.get(1).and_then(|bias| bias.deviation(0, width)),
            confidence: self.confidence,
        };
        self.rows(width, |row, emit| {
            norm.deviations(x.row(row, width), x.deviation(row, width), emit);
        })
    }

    fn linear(&self, partials: usize) -> Deviation {
        let (x, weight) = (&self.inputs[0], &self.params[0]);
        let &[width, k] = weight.shape else {
            unreachable!("the step's shape was checked");
        };
        let rows = x.values.len().checked_div(k).unwrap_or(0);
        let sums = Sums::new(
            x.matrix(0, [rows, k]),
            weight.matrix(0, [width, k]),
            self.confidence,
        );
        let unit = self.out().unit_roundoff().unwrap_or(0.0);
        let bias = self.params.get(1);
        self.grid(width, |row, column, y| {
            // The sum alone: a bias may cancel it, not its error.
            let y = y - bias.map_or(0.0, |bias| element(bias, column).0);
            let [mut rounding, mut spread] = sums.at([row, column], y, k);
            if partials > 1 {
                let magnitude = sums.magnitudes.of[[row, column]];
                let magnitudes = &sums.magnitudes;
                rounding += magnitudes.partial_roundings(y, magnitude.into(), partials, unit);
            }
            if let Some(bias) = bias.filter(|bias| bias.deviation.is_some()) {
                let [of_bias, spread_of_bias] = element(bias, column).1;
                rounding += of_bias;
                spread = self.confidence.join(spread, spread_of_bias);
            }
            [rounding, spread]
        })
    }

    /// The ALiBi bias is a tensor of the storage type that is added: its rounding counts.
    fn scores(&self, scales: [f32; 2], slopes: &[f32], form: AlibiForm) -> Deviation {
        let &[.., positions, head_dim] = self.inputs[0].shape else {
            unreachable!("the step's shape was checked");
        };
        let [product_scale, alibi_scale] = scales.map(f64::from);
        let unit = self.out().unit_roundoff().unwrap_or(0.0);
        let each = self.each_operation();
        self.rows(positions * positions, |head, emit| {
            let [query, key] =
                [0, 1].map(|input| self.inputs[input].matrix(head, [positions, head_dim]));
            let sums = Sums::new(query, key, self.confidence);
            let slope = slopes[head % slopes.len()];
            for (index, y) in self
                .output
                .row(head, positions * positions)
                .iter()
                .enumerate()
            {
                let place = [index / positions, index % positions];
                let alibi = alibi_scale * f64::from(form.bias(slope, place[0], place[1]));
                let product = f64::from(*y) - alibi;
                let [rounding, spread] = sums.at(place, product / product_scale, head_dim);
                let in_fp32 = U * (product.abs() + alibi.abs());
                let spread = self.confidence.join(product_scale.abs() * spread, in_fp32);
                let rounding = product_scale.abs() * rounding
                    + unit * alibi.abs()
                    + each * (2.0 * product.abs() + alibi.abs());
                emit(index, rounding, spread);
            }
        })
    }

    fn softmax(&self, scale: f64, mask: Mask) -> Deviation {
        let scores = &self.inputs[0];
        let keys = scores.shape.last().copied().unwrap_or(1);
        let softmax = Softmax {
            scale,
            each: self.each_operation(),
            confidence: self.confidence,
        };
        self.rows(keys, |row, emit| {
            let seen = mask.seen(row % keys, keys);
            let deviation = scores.deviation(row, keys);
            let deviation = deviation.map(|(a, b)| (&a[..seen], &b[..seen]));
            softmax.deviations(&scores.row(row, keys)[..seen], deviation, emit);
        })
    }

    fn context(&self) -> Deviation {
        let &[_, heads, positions, head_dim] = self.inputs[1].shape else {
            unreachable!("the step's shape was checked");
        };
        // Head by head, then side by side as the result has them.
        let matrices = self.inputs[1].values.len() / (positions * head_dim).max(1);
        let by_head: Vec<Vec<[f64; 2]>> = (0..matrices)
            .into_par_iter()
            .map(|index| {
                let probs = self.inputs[0].matrix(index, [positions; 2]);
                let value = self.inputs[1].matrix(index, [positions, head_dim]);
                let sums = Sums::new(probs, value.transposed(), self.confidence);
                let (batch, head) = (index / heads, index % heads);
                let row_of = |position: usize| {
                    let start = ((batch * positions + position) * heads + head) * head_dim;
                    &self.output.values[start..start + head_dim]
                };
                let of_row = |position: usize| {
                    let seen = probs.values.row(position);
                    let terms = seen.iter().filter(|p| **p != 0.0).count();
                    let sums = &sums;
                    let row = row_of(position).iter().enumerate();
                    row.map(move |(column, y)| sums.at([position, column], (*y).into(), terms))
                };
                (0..positions).flat_map(of_row).collect()
            })
            .collect();
        self.each(|index| {
            let (token, column) = (index / (heads * head_dim), index % (heads * head_dim));
            let (batch, position) = (token / positions, token % positions);
            let matrix = batch * heads + column / head_dim;
            by_head[matrix][position * head_dim + column % head_dim]
        })
    }

    /// `a·cos − b·sin`: in units of `u`, sine and cosine are off by 4 (CUDA: 2 ulp) and by what the
    /// angle is off by, products and sum by 1 each.
    fn rotary(&self, rotary: &Rotary) -> Deviation {
        let &[_, _, positions, head_dim] = self.inputs[0].shape else {
            unreachable!("the step's shape was checked");
        };
        let each = self.each_operation();
        let (x, join) = (&self.inputs[0], |a, b| self.confidence.join(a, b));
        self.rows(head_dim, |row, emit| {
            for place in rotary.dims..head_dim {
                let [rounding, spread] = element(x, row * head_dim + place).1;
                emit(place, rounding, spread);
            }
            for pair in 0..rotary.dims / 2 {
                let places = rotary.pair(pair);
                let [a, b] = places.map(|place| element(x, row * head_dim + place));
                let angle = rotary.angle(row % positions, pair);
                let (sin, cos) = (angle.sin(), angle.cos());
                let of_angle = rotary.angle_error(pair) * angle.abs();
                for (place, [p, q]) in places.into_iter().zip([[a, b], [b, a]]) {
                    // p·cos ∓ q·sin
                    let of = |of_p: f64, of_q: f64| [of_p * cos.abs(), of_q * sin.abs()];
                    let sizes = of(p.0.abs(), q.0.abs());
                    let turned = (p.0 * sin).abs() + (q.0 * cos).abs();
                    let rounding: f64 = of(p.1[0], q.1[0]).iter().sum();
                    let spreads = of(p.1[1], q.1[1]);
                    let functions = 5.0 * join(sizes[0], sizes[1]);
                    let own = U * join(join(of_angle * turned, functions), sizes[0]);
                    let spread = join(join(spreads[0], spreads[1]), own);
                    // Sine, cosine and both products are rounded.
                    emit(place, rounding + each * 2.0 * (sizes[0] + sizes[1]), spread);
                }
            }
        })
    }

    /// The activation, rounded if every operation is, times what it gates.
    fn gate(&self, activation: Activation) -> Deviation {
        let each = self.each_operation();
        self.each(|index| {
            let (value, deviation) = element(&self.inputs[0], index);
            let (up, [of_up, spread_of_up]) = element(&self.inputs[1], index);
            let carried = Carried::new(value, deviation, 0.0, self.confidence);
            let gate = formula::activation(activation, carried);
            let rounding = gate.rounding + each * gate.value.abs();
            let spreads = [gate.spread() * up.abs(), spread_of_up * gate.value.abs()];
            let product = U * (gate.value * up).abs();
            let spread = self.confidence.join(spreads[0], spreads[1]);
            [
                rounding * up.abs() + of_up * gate.value.abs(),
                self.confidence.join(spread, product),
            ]
        })
    }

    fn map(&self, function: impl Fn(Carried) -> Carried + Sync) -> Deviation {
        let unit = self.each_operation();
        self.each(|index| {
            let (value, deviation) = element(&self.inputs[0], index);
            let carried = function(Carried::new(value, deviation, unit, self.confidence));
            [carried.rounding, carried.spread()]
        })
    }

    fn sum(&self, a: (f64, [f64; 2]), b: (f64, [f64; 2])) -> [f64; 2] {
        let ([rounding, spread], [other, spread_of_other]) = (a.1, b.1);
        [
            rounding + other,
            self.confidence.join(spread, spread_of_other),
        ]
    }
}

/// Elements of a result, whose deviations are filled in.
struct Elements<'a> {
    storage: Storage,
    values: &'a [f32],
    roundings: &'a mut [f32],
    spreads: &'a mut [f32],
}

impl Elements<'_> {
    /// Takes what an element may be off by before it is stored.
    #[inline(always)]
    fn put(&mut self, offset: usize, rounding: f64, spread: f64) {
        let stored = self.storage.rounding(self.values[offset].into());
        self.roundings[offset] = (rounding + stored) as f32;
        self.spreads[offset] = spread as f32;
    }
}

/// An element with its rounding and spread.
fn element(of: &Wide<'_>, index: usize) -> (f64, [f64; 2]) {
    let deviation = of.deviation.map_or([0.0; 2], |all| {
        [all.rounding[index].into(), all.spread[index].into()]
    });
    (of.values[index].into(), deviation)
}
