//! The error bound of a step's result.

use super::U;
use super::error_bound::{Confidence, ErrorBound, Storage};
use super::product::{Magnitudes, propagated};
use super::row::{Norm, Row, Softmax};
use super::running_error::RunningError;
use crate::backend::formula::{self, Real};
use crate::backend::{gather, split_heads};
use crate::error::{Error, Result};
use crate::op::{self, Activation, AlibiForm, Mask, Op, Rotary, Rounding};
use crate::plan::Step;
use crate::tensor::{DType, Float, Tensor, with_float};
use ndarray::{Array2, ArrayView2, ArrayViewD, IxDyn};
use rayon::prelude::*;
use std::borrow::Cow;

/// A value that a step reads, and how far it may be from exact; `None` if it is given.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// The value.
    pub value: &'a Tensor,
    /// Its error bound.
    pub error_bound: Option<&'a ErrorBound>,
}

impl<'a> Operand<'a> {
    /// A value that is the same on both sides.
    pub fn given(value: &'a Tensor) -> Self {
        Self {
            value,
            error_bound: None,
        }
    }

    /// Whether it is.
    pub fn is_given(&self) -> bool {
        self.error_bound.is_none()
    }
}

/// How far a correct implementation's result of a step may be from the exact one. `output` is the
/// result of any of them.
///
/// # Errors
/// [`Error::Mismatch`] if the arrays are not those of the step.
pub fn error_bound(
    step: &Step,
    inputs: &[Operand<'_>],
    params: &[Operand<'_>],
    output: &Tensor,
    confidence: Confidence,
) -> Result<ErrorBound> {
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
    error_bound: Option<&'a ErrorBound>,
}

impl<'a> Wide<'a> {
    /// Empty for what is no floating value: token ids have no error bound.
    fn of(operand: &Operand<'a>) -> Result<Self> {
        let value = operand.value;
        let values = with_float!(value.dtype(), T => T::widened(value.as_slice::<T>()?), else Cow::default());
        Ok(Self {
            values,
            shape: value.shape(),
            error_bound: operand.error_bound,
        })
    }

    /// Elements `index·len..` of the error bound.
    fn error_bound(&self, index: usize, len: usize) -> Row<'a> {
        let range = index * len..(index + 1) * len;
        self.error_bound
            .map(|all| (&all.rounding[range.clone()], &all.std[range]))
    }

    fn row(&self, index: usize, len: usize) -> &[f32] {
        &self.values[index * len..(index + 1) * len]
    }

    fn matrix(&self, index: usize, shape: [usize; 2]) -> Matrix<'_> {
        let len = shape[0] * shape[1];
        let view = |data| ArrayView2::from_shape(shape, data).expect("cut to one matrix");
        Matrix {
            values: view(self.row(index, len)),
            error_bound: self
                .error_bound(index, len)
                .map(|(rounding, std)| [view(rounding), view(std)]),
        }
    }
}

/// A matrix of an operand and of its error bounds.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: ArrayView2<'a, f32>,
    error_bound: Option<[ArrayView2<'a, f32>; 2]>,
}

impl<'a> Matrix<'a> {
    fn transposed(self) -> Self {
        Self {
            values: self.values.reversed_axes(),
            error_bound: self
                .error_bound
                .map(|all| all.map(ArrayView2::reversed_axes)),
        }
    }

    fn rounding(self) -> Option<ArrayView2<'a, f32>> {
        self.error_bound.map(|[rounding, _]| rounding)
    }

    fn std(self) -> Option<ArrayView2<'a, f32>> {
        self.error_bound.map(|[_, std]| std)
    }
}

/// Deviations of the sums of `x · weightᵀ`, from both operands and from the summation.
struct Sums {
    magnitudes: Magnitudes,
    rounding: Option<Array2<f32>>,
    std: Option<Array2<f32>>,
    confidence: Confidence,
}

impl Sums {
    fn new(x: Matrix<'_>, weight: Matrix<'_>, confidence: Confidence) -> Self {
        let values = [x.values, weight.values];
        let squares = confidence == Confidence::Probabilistic;
        Self {
            magnitudes: Magnitudes::new(x.values, weight.values, confidence),
            rounding: propagated(values, [x.rounding(), weight.rounding()], false),
            std: propagated(values, [x.std(), weight.std()], squares),
            confidence,
        }
    }

    /// Rounding and standard deviation of the sum `y` of `terms` terms at a place of the product.
    #[inline(always)]
    fn at(&self, place: [usize; 2], y: f64, terms: usize) -> [f64; 2] {
        let magnitude = f64::from(self.magnitudes.of[place]);
        let own = self.magnitudes.std(y, magnitude, terms);
        let of = |all: &Option<Array2<f32>>| all.as_ref().map_or(0.0, |all| all[place].into());
        let std = self.confidence.join(own, of(&self.std));
        [of(&self.rounding), std]
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
    fn run(&self, inputs: &[Operand<'_>], params: &[Operand<'_>]) -> Result<ErrorBound> {
        Ok(match &self.step.op {
            Op::Embedding(op::Embedding) => self.embedding(inputs[0].value, params[0])?,
            Op::LayerNorm(op::LayerNorm { eps }) => self.norm(*eps, true),
            Op::RmsNorm(op::RmsNorm { eps }) => self.norm(*eps, false),
            Op::Linear(op::Linear { partials, .. }) => self.linear(*partials),
            Op::SplitHeads(op::SplitHeads {
                part,
                layout,
                heads,
                ..
            }) => {
                let shape = IxDyn(self.inputs[0].shape);
                let split = |all: &[f32]| {
                    let fused = ArrayViewD::from_shape(shape.clone(), all).expect("its shape");
                    split_heads(fused, *part, *layout, *heads)
                };
                match self.inputs[0].error_bound {
                    None => ErrorBound::none(self.output.values.len()),
                    Some(all) => ErrorBound {
                        rounding: split(&all.rounding),
                        std: split(&all.std),
                    },
                }
            }
            Op::AttentionScores(op::AttentionScores {
                product_scale,
                alibi_scale,
                alibi_slopes,
                alibi_form,
            }) => {
                let scales = [*product_scale, *alibi_scale];
                self.scores(scales, alibi_slopes, *alibi_form)
            }
            Op::Softmax(op::Softmax { scale, mask }) => self.softmax((*scale).into(), *mask),
            Op::Context(op::Context) => self.context(),
            Op::AddBias(op::AddBias) => {
                let width = self.params[0].values.len();
                self.each(|index| {
                    let bias = element(&self.params[0], index % width);
                    self.sum(element(&self.inputs[0], index), bias)
                })
            }
            Op::Add(op::Add) => self.each(|index| {
                let other = element(&self.inputs[1], index);
                self.sum(element(&self.inputs[0], index), other)
            }),
            Op::Rotary(rotary) => self.rotary(rotary),
            Op::Gate(op::Gate { activation }) => self.gate(*activation),
            Op::Activation(activation) => self.map(|x| formula::activation(*activation, x)),
            Op::Scale(op::Scale { factor }) => self.map(|x| RunningError::constant(*factor) * x),
            Op::SoftCap(op::SoftCap { cap }) => {
                self.map(|x| formula::soft_cap(RunningError::constant(*cap), x))
            }
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

    /// `of(index)` gives rounding and standard deviation of an element before it is stored.
    fn each(&self, of: impl Fn(usize) -> [f64; 2] + Sync) -> ErrorBound {
        const CHUNK: usize = 1 << 14;
        self.grid(CHUNK, |chunk, offset, _| of(chunk * CHUNK + offset))
    }

    /// `of(row, column, value)` gives rounding and standard deviation of an element before it is stored.
    fn grid(&self, width: usize, of: impl Fn(usize, usize, f64) -> [f64; 2] + Sync) -> ErrorBound {
        self.filled(width, |row, to| {
            for column in 0..to.values.len() {
                let [rounding, std] = of(row, column, to.values[column].into());
                to.put(column, rounding, std);
            }
        })
    }

    /// `of(row, emit)` emits offset, rounding and standard deviation of the elements of a row before they are
    /// stored; what it leaves out is exactly 0.
    fn rows(
        &self,
        width: usize,
        of: impl Fn(usize, &mut dyn FnMut(usize, f64, f64)) + Sync,
    ) -> ErrorBound {
        self.filled(width, |row, to| {
            of(row, &mut |offset, rounding, std| {
                to.put(offset, rounding, std)
            });
        })
    }

    /// Fills rows in parallel.
    fn filled(&self, width: usize, fill: impl Fn(usize, &mut Elements<'_>) + Sync) -> ErrorBound {
        let mut all = ErrorBound::none(self.output.values.len());
        if all.is_empty() {
            return all;
        }
        let storage = Storage::of(self.out());
        all.rounding
            .par_chunks_mut(width)
            .zip(all.std.par_chunks_mut(width))
            .zip(self.output.values.par_chunks(width))
            .enumerate()
            .for_each(|(row, ((roundings, stds), values))| {
                let mut elements = Elements {
                    storage,
                    values,
                    roundings,
                    stds,
                };
                fill(row, &mut elements);
            });
        all
    }

    fn embedding(&self, tokens: &Tensor, weight: Operand<'_>) -> Result<ErrorBound> {
        let Some(all) = weight.error_bound else {
            return Ok(ErrorBound::none(self.output.values.len()));
        };
        let gather = |rows: &[f32]| {
            let rows = Tensor::from_vec(weight.value.shape(), rows.to_vec())?;
            gather::<f32>(tokens, &rows)
        };
        Ok(ErrorBound {
            rounding: gather(&all.rounding)?,
            std: gather(&all.std)?,
        })
    }

    fn norm(&self, eps: f64, centred: bool) -> ErrorBound {
        let [x, weight] = [&self.inputs[0], &self.params[0]];
        let width = weight.values.len();
        let norm = Norm {
            eps,
            centred,
            before_weight: self.each_operation(),
            weight: &weight.values,
            weight_deviation: weight.error_bound(0, width),
            bias_deviation: self
                .params
                .get(1)
                .and_then(|bias| bias.error_bound(0, width)),
            confidence: self.confidence,
        };
        self.rows(width, |row, emit| {
            norm.error_bounds(x.row(row, width), x.error_bound(row, width), emit);
        })
    }

    fn linear(&self, partials: usize) -> ErrorBound {
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
            let [mut rounding, mut std] = sums.at([row, column], y, k);
            if partials > 1 {
                let magnitude = sums.magnitudes.of[[row, column]];
                let magnitudes = &sums.magnitudes;
                rounding += magnitudes.partial_roundings(y, magnitude.into(), partials, unit);
            }
            if let Some(bias) = bias.filter(|bias| bias.error_bound.is_some()) {
                let [of_bias, spread_of_bias] = element(bias, column).1;
                rounding += of_bias;
                std = self.confidence.join(std, spread_of_bias);
            }
            [rounding, std]
        })
    }

    /// The ALiBi bias is a tensor of the storage type that is added: its rounding counts.
    fn scores(&self, scales: [f32; 2], slopes: &[f32], form: AlibiForm) -> ErrorBound {
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
                let [rounding, std] = sums.at(place, product / product_scale, head_dim);
                let in_fp32 = U * (product.abs() + alibi.abs());
                let std = self.confidence.join(product_scale.abs() * std, in_fp32);
                let rounding = product_scale.abs() * rounding
                    + unit * alibi.abs()
                    + each * (2.0 * product.abs() + alibi.abs());
                emit(index, rounding, std);
            }
        })
    }

    fn softmax(&self, scale: f64, mask: Mask) -> ErrorBound {
        let scores = &self.inputs[0];
        let keys = scores.shape.last().copied().unwrap_or(1);
        let softmax = Softmax {
            scale,
            each: self.each_operation(),
            confidence: self.confidence,
        };
        self.rows(keys, |row, emit| {
            let seen = mask.seen(row % keys, keys);
            let error_bound = scores.error_bound(row, keys);
            let error_bound = error_bound.map(|(a, b)| (&a[..seen], &b[..seen]));
            softmax.error_bounds(&scores.row(row, keys)[..seen], error_bound, emit);
        })
    }

    fn context(&self) -> ErrorBound {
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
    fn rotary(&self, rotary: &Rotary) -> ErrorBound {
        let &[_, _, positions, head_dim] = self.inputs[0].shape else {
            unreachable!("the step's shape was checked");
        };
        let each = self.each_operation();
        let (x, join) = (&self.inputs[0], |a, b| self.confidence.join(a, b));
        self.rows(head_dim, |row, emit| {
            for place in rotary.dims..head_dim {
                let [rounding, std] = element(x, row * head_dim + place).1;
                emit(place, rounding, std);
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
                    let stds = of(p.1[1], q.1[1]);
                    let functions = 5.0 * join(sizes[0], sizes[1]);
                    let own = U * join(join(of_angle * turned, functions), sizes[0]);
                    let std = join(join(stds[0], stds[1]), own);
                    // Sine, cosine and both products are rounded.
                    emit(place, rounding + each * 2.0 * (sizes[0] + sizes[1]), std);
                }
            }
        })
    }

    /// The activation, rounded if every operation is, times what it gates.
    fn gate(&self, activation: Activation) -> ErrorBound {
        let each = self.each_operation();
        self.each(|index| {
            let (value, error_bound) = element(&self.inputs[0], index);
            let (up, [of_up, spread_of_up]) = element(&self.inputs[1], index);
            let carried = RunningError::new(value, error_bound, 0.0, self.confidence);
            let gate = formula::activation(activation, carried);
            let rounding = gate.rounding + each * gate.value.abs();
            let stds = [gate.std() * up.abs(), spread_of_up * gate.value.abs()];
            let product = U * (gate.value * up).abs();
            let std = self.confidence.join(stds[0], stds[1]);
            [
                rounding * up.abs() + of_up * gate.value.abs(),
                self.confidence.join(std, product),
            ]
        })
    }

    fn map(&self, function: impl Fn(RunningError) -> RunningError + Sync) -> ErrorBound {
        let unit = self.each_operation();
        self.each(|index| {
            let (value, error_bound) = element(&self.inputs[0], index);
            let carried = function(RunningError::new(value, error_bound, unit, self.confidence));
            [carried.rounding, carried.std()]
        })
    }

    fn sum(&self, a: (f64, [f64; 2]), b: (f64, [f64; 2])) -> [f64; 2] {
        let ([rounding, std], [other, spread_of_other]) = (a.1, b.1);
        [rounding + other, self.confidence.join(std, spread_of_other)]
    }
}

/// Elements of a result, whose error bounds are filled in.
struct Elements<'a> {
    storage: Storage,
    values: &'a [f32],
    roundings: &'a mut [f32],
    stds: &'a mut [f32],
}

impl Elements<'_> {
    /// Takes what an element may be off by before it is stored.
    #[inline(always)]
    fn put(&mut self, offset: usize, rounding: f64, std: f64) {
        let stored = self.storage.rounding(self.values[offset].into());
        self.roundings[offset] = (rounding + stored) as f32;
        self.stds[offset] = std as f32;
    }
}

/// An element with its rounding and standard deviation.
fn element(of: &Wide<'_>, index: usize) -> (f64, [f64; 2]) {
    let error_bound = of.error_bound.map_or([0.0; 2], |all| {
        [all.rounding[index].into(), all.std[index].into()]
    });
    (of.values[index].into(), error_bound)
}
