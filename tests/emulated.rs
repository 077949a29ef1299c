//! References from tensor cores, emulated: products are summed by [`MmaUnit`], which is equal to published
//! results of GPUs to the bit, in one walk or in parts that are merged in fp32. A correct model passes
//! against them, and bugs are caught as they are against a CPU's references.

use crate::common::{self, Copy, goldens, sample};
use parity::backend::{Backend, Cpu, Device};
use parity::case::Case;
use parity::compare::{Budget, Flips, Spec, compare};
use parity::diff::{Modes, Options, Verdict};
use parity::exec::{Execution, Value, params_of, start};
use parity::golden::{Algorithm, Content, Golden};
use parity::op::tensor_core::{MmaInput, MmaUnit};
use parity::op::{self, Confidence, Numerics, Op, Operand, Partials, Summation};
use parity::plan::{Param, StageId, Step, Variant};
use parity::tensor::{DType, Tensor, npy};
use parity::{Result, selftest};
use std::collections::BTreeMap;
use std::fs;

const CAPABILITIES: [(u32, u32); 2] = [(8, 0), (9, 0)];
const TYPES: [DType; 2] = [DType::Bf16, DType::F16];

fn input_of(dtype: DType) -> MmaInput {
    match dtype {
        DType::Bf16 => MmaInput::Bf16,
        DType::F16 => MmaInput::F16,
        _ => MmaInput::Tf32,
    }
}

/// The order in which a library or a unit sums the products of half types.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// A tensor core's, in so many parts, merged one after the other in fp32.
    Unit(MmaUnit, usize),
    /// One product after the other in fp32.
    Ascending,
    /// So many sums of every so-manieth product, added in the end: a CPU's vectors.
    Lanes(usize),
    /// Sums of so many products in a row, added as they come: a CPU's cache blocks.
    Blocks(usize),
}

/// The products of another library or a GPU; the rest as this machine computes it.
struct Emulated {
    order: Order,
    dtype: DType,
}

impl Emulated {
    fn new(capability: (u32, u32), dtype: DType, splits: usize) -> Self {
        let unit = MmaUnit::of(capability, input_of(dtype)).expect("a unit");
        Self {
            order: Order::Unit(unit, splits),
            dtype,
        }
    }

    /// As a plan says it.
    fn summation(&self) -> Summation {
        match self.order {
            Order::Unit(unit, _) => Summation::TensorCore(unit),
            _ => Summation::Backend,
        }
    }

    fn dot(&self, a: &[u32], b: &[u32]) -> f32 {
        let of = |range: &mut dyn Iterator<Item = usize>| {
            let product = |k: usize| value_of(a[k], self.dtype) * value_of(b[k], self.dtype);
            range.map(product).fold(0.0_f32, |sum, term| sum + term)
        };
        let k = a.len();
        let add = |a: f32, b: f32| a + b;
        match self.order {
            Order::Unit(unit, splits) => {
                let part = k.div_ceil(splits).next_multiple_of(unit.block);
                let parts = a.chunks(part).zip(b.chunks(part));
                let sums = parts.map(|(a, b)| f32::from_bits(unit.dot(a, b, 0)));
                sums.reduce(add).unwrap_or(0.0)
            }
            Order::Ascending => of(&mut (0..k)),
            Order::Lanes(lanes) => (0..lanes)
                .map(|lane| of(&mut (lane..k).step_by(lanes)))
                .fold(0.0, add),
            Order::Blocks(block) => (0..k)
                .step_by(block)
                .map(|start| of(&mut (start..k.min(start + block))))
                .fold(0.0, add),
        }
    }
}

/// What bits of a half type, or of fp32, say.
fn value_of(bits: u32, dtype: DType) -> f32 {
    match dtype {
        DType::Bf16 => half::bf16::from_bits(bits as u16).to_f32(),
        DType::F16 => half::f16::from_bits(bits as u16).to_f32(),
        _ => f32::from_bits(bits),
    }
}

/// Bit patterns, as units read them.
fn bits(tensor: &Tensor) -> Vec<u32> {
    match tensor.dtype() {
        DType::Bf16 => {
            let values = tensor.as_slice::<half::bf16>().expect("bf16").iter();
            values.map(|x| x.to_bits().into()).collect()
        }
        DType::F16 => {
            let values = tensor.as_slice::<half::f16>().expect("fp16").iter();
            values.map(|x| x.to_bits().into()).collect()
        }
        _ => {
            let values = tensor.as_slice::<f32>().expect("fp32").iter();
            values.map(|x| x.to_bits()).collect()
        }
    }
}

/// Values rounded once to a half type.
fn rounded(shape: &[usize], values: Vec<f32>, dtype: DType) -> Tensor {
    Tensor::from_vec(shape, values)
        .expect("as many")
        .cast(dtype)
        .expect("a float")
}

fn widened(tensor: &Tensor) -> Vec<f32> {
    let wide = tensor.cast(DType::F32).expect("a float");
    wide.as_slice::<f32>().expect("fp32").to_vec()
}

impl Backend for Emulated {
    type Array = Tensor;

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn upload(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    fn download(&self, array: &Tensor) -> Result<Tensor> {
        Ok(array.clone())
    }

    fn run(&self, step: &Step, inputs: &[&Tensor], params: &[&Tensor]) -> Result<Tensor> {
        let cpu = || Cpu.run(step, inputs, params);
        let dtype = step.numerics.out;
        match &step.op {
            Op::Linear(_) => {
                let (x, weight) = (bits(inputs[0]), bits(params[0]));
                let [width, k] = [params[0].shape()[0], params[0].shape()[1]];
                let bias = params.get(1).map(|bias| widened(bias));
                let rows = x.chunks(k).flat_map(|x| {
                    let (weight, bias) = (&weight, &bias);
                    (0..width).map(move |column| {
                        let sum = self.dot(x, &weight[column * k..(column + 1) * k]);
                        sum + bias.as_ref().map_or(0.0, |bias| bias[column])
                    })
                });
                let shape = [&inputs[0].shape()[..2], &[width]].concat();
                Ok(rounded(&shape, rows.collect(), dtype))
            }
            // Of its ALiBi the CPU's own bias is taken: what it gives with queries of zeros.
            Op::AttentionScores(scores) => {
                let zeros = Tensor::from_vec(inputs[0].shape(), vec![0.0_f32; inputs[0].len()])?;
                let bias = widened(&Cpu.run(step, &[&zeros.cast(dtype)?, inputs[1]], params)?);
                let &[b, n, s, d] = inputs[0].shape() else {
                    unreachable!("queries by head");
                };
                let (query, key) = (bits(inputs[0]), bits(inputs[1]));
                let mut out = bias;
                for head in 0..b * n {
                    for (place, out) in out[head * s * s..(head + 1) * s * s].iter_mut().enumerate()
                    {
                        let query = &query[(head * s + place / s) * d..][..d];
                        let key = &key[(head * s + place % s) * d..][..d];
                        *out += scores.product_scale * self.dot(query, key);
                    }
                }
                Ok(rounded(&[b, n, s, s], out, dtype))
            }
            Op::Context(_) => {
                let shape = cpu()?.shape().to_vec();
                let &[b, n, s, d] = inputs[1].shape() else {
                    unreachable!("values by head");
                };
                let (probs, value) = (bits(inputs[0]), bits(inputs[1]));
                let mut out = vec![0.0_f32; b * s * n * d];
                for (head, query) in (0..b * n).flat_map(|head| (0..s).map(move |q| (head, q))) {
                    let probs = &probs[(head * s + query) * s..][..s];
                    for column in 0..d {
                        let value: Vec<u32> = (0..s)
                            .map(|key| value[(head * s + key) * d + column])
                            .collect();
                        let (batch, head) = (head / n, head % n);
                        out[((batch * s + query) * n + head) * d + column] =
                            self.dot(probs, &value);
                    }
                }
                Ok(rounded(&shape, out, dtype))
            }
            _ => cpu(),
        }
    }
}

struct Draw(u64);

impl Draw {
    fn uniform(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }

    /// Nearly normal.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

/// Shapes of data that products meet.
#[derive(Clone, Copy, Debug)]
enum Data {
    Normal,
    /// Probabilities and values of one sign.
    Positive,
    /// A few columns a hundred times the others, as activations have them.
    Outliers,
}

impl Data {
    fn values(self, count: usize, width: usize, draw: &mut Draw) -> Vec<f32> {
        let value = |index: usize, draw: &mut Draw| match self {
            Self::Normal => draw.normal(),
            Self::Positive => draw.uniform(),
            Self::Outliers if (index % width).is_multiple_of(61) => 100.0 * draw.normal(),
            Self::Outliers => draw.normal(),
        };
        (0..count).map(|index| value(index, draw)).collect()
    }
}

/// A product in a half type, and how many elements of it were seen and expected to differ.
fn judged(
    draw: &mut Draw,
    data: Data,
    [rows, width, k]: [usize; 3],
    dtype: DType,
    reference: &Emulated,
) -> (String, Flips, f64) {
    let what = format!(
        "{data:?} {rows}x{width}, K {k}, {dtype}, {:?}",
        reference.order
    );
    let x = rounded(&[1, rows, k], data.values(rows * k, k, draw), dtype);
    let scale = (k as f32).sqrt().recip();
    let weight: Vec<f32> = (0..width * k).map(|_| scale * draw.normal()).collect();
    let weight = rounded(&[width, k], weight, dtype);
    let ours = Step {
        id: "product".into(),
        stage: "product".into(),
        variant: Variant::PLAIN,
        op: op::Linear {
            bias: false,
            partials: Partials::ONE,
        }
        .into(),
        inputs: vec!["x".into()],
        params: vec![Param {
            name: "weight".into(),
            shape: vec![width, k],
        }],
        numerics: Numerics::product(dtype),
    };
    let mut theirs = ours.clone();
    theirs.numerics.summation = reference.summation();
    let found = Cpu.run(&ours, &[&x], &[&weight]).expect("a product");
    let recorded = reference
        .run(&theirs, &[&x], &[&weight])
        .expect("a product");
    let confidence = Confidence::Probabilistic;
    let bound = |step: &Step| {
        let (x, weight) = (Operand::given(&x), Operand::given(&weight));
        step.error_bound(&[x], &[weight], &recorded, confidence)
            .expect("a bound")
    };
    let (ours, theirs) = (bound(&ours), bound(&theirs));
    let budget = Budget::new(&ours, &theirs, confidence);
    let spec = Spec {
        budget: Some(budget.allowed()),
        ..Spec::default()
    };
    let metrics = compare(&recorded, &found, &spec).expect("of one shape");
    let flips = Flips::new(metrics.unequal, &recorded, &ours, &theirs);
    let flips = flips.expect("floats").expect("of a half type");
    let ratio = metrics.worst_ratio.map_or(0.0, |worst| worst.ratio);
    (what, flips, ratio)
}

/// Every draw by default is one of thirty-one.
#[test]
fn correct_products_are_within_bounds_and_counts_of_any_unit() {
    let mut draws = Vec::new();
    for capability in CAPABILITIES {
        for dtype in TYPES {
            for (k, elements) in [(64, 64), (256, 64), (1024, 32), (4096, 16), (14_336, 8)] {
                for splits in [1, 2, 4] {
                    for data in [Data::Normal, Data::Positive, Data::Outliers] {
                        draws.push((capability, dtype, k, elements, splits, data));
                    }
                }
            }
        }
    }
    draws.extend(draws.clone().into_iter().take(20));
    assert_eq!(draws.len(), 200);
    let mut false_alarms = Vec::new();
    for (seed, (capability, dtype, k, elements, splits, data)) in
        sample(draws.into_iter().enumerate(), 31)
    {
        let reference = Emulated::new(capability, dtype, splits);
        let mut draw = Draw(seed as u64 + 1);
        let shape = [elements, elements, k];
        let (what, flips, ratio) = judged(&mut draw, data, shape, dtype, &reference);
        if ratio > 1.0 || flips.log10_p < -6.0 {
            false_alarms.push(format!("{what}: diff/budget {ratio}, {flips:?}"));
        }
    }
    assert!(false_alarms.is_empty(), "{false_alarms:#?}");
}

/// Of products whose sums are taken in every order there is, mismatches are expected as they are seen.
#[test]
fn expected_mismatches_are_near_the_observed() {
    const OF_CPUS: [Order; 4] = [
        Order::Ascending,
        Order::Lanes(8),
        Order::Lanes(32),
        Order::Blocks(256),
    ];
    let mut draws = Vec::new();
    for dtype in TYPES {
        for data in [Data::Normal, Data::Positive, Data::Outliers] {
            for (k, width) in [(64, 256), (256, 128), (1024, 64), (4096, 64)] {
                draws.extend(OF_CPUS.map(|order| (Emulated { order, dtype }, k, width, data)));
                // Emulation takes its time.
                let units = CAPABILITIES.map(|unit| Emulated::new(unit, dtype, 1));
                let units = units.into_iter().filter(|_| (256..=1024).contains(&k));
                draws.extend(units.map(|unit| (unit, k, 64, data)));
            }
        }
    }
    // Of 86 pairs 83 lie below three, the others at 3.5 to 3.9: products with outliers on sm_80 or in 32 lanes.
    const FACTOR: f64 = 4.0;
    // Fewer than thirty say little.
    const ENOUGH: usize = 30;
    const DRAWS: usize = 8;
    let mut far = Vec::new();
    for (seed, (reference, k, width, data)) in sample(draws.iter().enumerate(), 83) {
        let mut draw = Draw(seed as u64 + 1);
        let (mut what, mut observed, mut expected) = (String::new(), 0, 0.0);
        for _ in 0..DRAWS {
            let shape = [*width, *width, *k];
            let (of, flips, _) = judged(&mut draw, *data, shape, reference.dtype, reference);
            (what, observed, expected) = (of, observed + flips.observed, expected + flips.expected);
            if observed >= ENOUGH {
                break;
            }
        }
        let factor = expected / observed as f64;
        println!("{what}: {observed} of {expected:.1} expected, {factor:.2}");
        if observed >= ENOUGH && !(1.0 / FACTOR..=FACTOR).contains(&factor) {
            far.push(what);
        }
    }
    assert!(far.is_empty(), "{far:#?}");
}

/// The golden of transformers' run of a model, its values those of an emulated GPU's run.
fn reference(golden: &str, model: &str, capability: (u32, u32), splits: usize) -> (Copy, Case) {
    let copy = Copy::of(golden);
    let opened = Golden::open(copy.golden()).expect("a golden");
    let manifest = opened.manifest();
    let model = goldens().join(model).join("hf");
    let candidate =
        parity::diff::Candidate::open_as(&model, Some(manifest.dtype)).expect("a model");
    let plan = manifest
        .model
        .plan(manifest.dtype, &manifest.arithmetic)
        .expect("a plan");
    let backend = Emulated::new(capability, manifest.dtype, splits);
    let begin = start(&opened.tokens().expect("tokens"), None).expect("positions");
    let begin = begin
        .into_iter()
        .map(|(id, value)| (id, Value::given(value)));
    let mut execution = Execution::whole(plan.steps(), &backend, begin);
    let mut values: BTreeMap<StageId, Tensor> = BTreeMap::new();
    for step in plan.steps() {
        let params = params_of(step, candidate.weights.as_ref()).expect("weights");
        let value = execution.compute(step, &params).expect("a value");
        values.insert(step.stage.clone(), value.clone());
        execution.keep(step, Some(Value::given(value)));
    }
    let of_gpu = Golden::open(goldens().join("gpu_bloom_bf16")).expect("a golden");
    let mut gpu = of_gpu.manifest().provenance.gpu.clone().expect("a GPU");
    gpu.compute_capability = format!("{}.{}", capability.0, capability.1);
    gpu.flags.allow_tf32 = manifest.dtype == DType::F32;
    let mut manifest = manifest.clone();
    manifest.provenance.gpu = Some(gpu);
    for record in &mut manifest.stages {
        let Content::Full { files, .. } = &mut record.content else {
            unreachable!("all values were recorded");
        };
        let path = copy.golden().join(&files[0].file);
        npy::write(&path, &values[&record.stage]).expect("written");
        files[0].digest = Algorithm::Blake3.digest(&fs::read(&path).expect("bytes"));
    }
    let path = copy.golden().join(Golden::MANIFEST);
    fs::write(path, manifest.to_json()).expect("written");
    let case = common::case(copy.golden(), model);
    (copy, case)
}

const BLOOM: [(&str, &str); 2] = [
    ("transformers_bloom_bf16_tp1", "bloom_bf16_tp1"),
    ("transformers_bloom_fp16_tp1", "bloom_fp16_tp1"),
];

#[test]
fn a_correct_model_passes_against_any_unit() {
    let runs = BLOOM
        .into_iter()
        .flat_map(|golden| CAPABILITIES.map(|unit| (golden, unit)));
    let runs = runs.flat_map(|(golden, unit)| [1, 2].map(|splits| (golden, unit, splits)));
    for ((golden, model), unit, splits) in sample(runs, 7) {
        let (_copy, case) = reference(golden, model, unit, splits);
        let outcome = common::run(&case);
        let failures: Vec<_> = outcome.failures().map(|result| &result.stage).collect();
        assert_eq!(
            outcome.verdict(),
            Verdict::Pass,
            "{golden} {unit:?} {splits}: {failures:?}"
        );
    }
}

/// fp32 products through TF32, as torch runs them on request: what comes of them is held to what TF32 holds.
#[test]
fn a_correct_model_passes_against_tf32() {
    let of = ("transformers_bloom_fp32_tp1", "bloom_fp32_tp1");
    let (_copy, case) = reference(of.0, of.1, (9, 0), 1);
    let outcome = common::run(&case);
    let failures: Vec<_> = outcome.failures().map(|result| &result.stage).collect();
    assert_eq!(outcome.verdict(), Verdict::Pass, "{failures:?}");
    let note = "the reference ran its products in tf32";
    let is_said = outcome.notes.iter().any(|other| other.contains(note));
    assert!(is_said, "{:?}", outcome.notes);
    let is_held_to_rounding = |stage: &str| {
        let mut results = outcome.stages.iter();
        let result = results.find(|result| result.stage.as_str() == stage);
        result.expect(stage).metrics.worst_ratio.is_some()
    };
    assert!(is_held_to_rounding("h.0.input_layernorm") && is_held_to_rounding("h.0.mlp.gelu"));
    assert!(!is_held_to_rounding("h.0.self_attention.dense"));
    // Another model's weights fail all the same.
    let other = Copy::of("bloom_fp32_tp1");
    other.edit_weights(|bytes, place| {
        for value in bytes[place("transformer.h.0.mlp.dense_h_to_4h.weight")].chunks_mut(4) {
            let wrong = 1.01 * f32::from_le_bytes(value.try_into().expect("four"));
            value.copy_from_slice(&wrong.to_le_bytes());
        }
    });
    let outcome = common::run(&common::case(&case.golden, other.model()));
    let failed = outcome.first_failure().expect("a failure");
    assert_eq!(failed.stage.as_str(), "h.0.mlp.dense_h_to_4h");
}

/// Bugs that fail against an emulated reference are at most two fewer than against a CPU's.
#[test]
fn bugs_are_caught_as_against_a_cpus_reference() {
    if !common::is_full() {
        return;
    }
    let options = Options {
        modes: Modes::Isolated,
        ..Options::default()
    };
    let caught = |case: &Case| {
        let result = selftest::selftest(case, &options, &mut |_| {}).expect("a selftest");
        assert_eq!(result.baseline, Verdict::Pass);
        (result.caught(), result.trials.len())
    };
    for (golden, model) in BLOOM {
        let model_folder = goldens().join(model).join("hf");
        let (on_cpu, of) = caught(&common::case(goldens().join(golden), model_folder));
        for unit in CAPABILITIES {
            let (_copy, case) = reference(golden, model, unit, 1);
            let (on_gpu, _) = caught(&case);
            println!("{golden} {unit:?}: {on_gpu} of {of}, against the CPU's reference {on_cpu}");
            assert!(on_gpu + 2 >= on_cpu, "{golden} {unit:?}");
        }
    }
}
