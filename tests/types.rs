//! Models and dumps whose tensors are of several types, as they come from frameworks.

use crate::common::{self, Copy, checkpoint, goldens, torch};
use parity::arch::Framework;
use parity::checkpoint::megatron::MegatronCheckpoint;
use parity::checkpoint::{SafetensorsFiles, Weights};
use parity::convert::{ByteSize, Converted, Options, convert};
use parity::diff::{Candidate, CaseOutcome, Verdict};
use parity::golden::{Golden, import};
use parity::tensor::{DType, Tensor, npy};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const NORM: &str = "h.0.input_layernorm.weight";

/// Stores the norms of a bf16 model in fp32, beyond what bf16 holds.
fn with_wide_norms(copy: &Copy) {
    let path = copy.model().join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut wide: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, tensor) in file.tensors() {
        if name.contains("layernorm") {
            let values = tensor.data().chunks(2).flat_map(|bits| {
                let value = half::bf16::from_le_bytes([bits[0], bits[1]]).to_f32();
                (value * (1.0 + f32::EPSILON)).to_le_bytes()
            });
            wide.insert(name, (tensor.shape().to_vec(), values.collect()));
        }
    }
    let mut all: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
    for (name, (shape, data)) in &wide {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).expect("a tensor");
        all.insert(name.clone(), view);
    }
    fs::write(path, serialize(all, None).expect("safetensors")).expect("written");
}

#[test]
fn weights_of_other_types_are_cast_on_loading_once() {
    let copy = Copy::of("bloom_bf16_tp1");
    with_wide_norms(&copy);
    let outcome = common::run(&copy.case());
    assert_eq!(outcome.verdict(), Verdict::Pass);
    let note = "10 of 29 weights are stored as fp32 (h.0.input_layernorm.bias first): cast to bf16 on loading";
    assert!(
        outcome.notes.iter().any(|other| other == note),
        "{:?}",
        outcome.notes
    );
    // Asked for fp32, nothing passes through bf16 on the way.
    let wide = Candidate::open_as(&copy.model(), Some(DType::F32)).expect("a model");
    let narrow = Candidate::open(&goldens().join("bloom_bf16_tp1/hf")).expect("a model");
    let [wide, narrow] = [wide, narrow].map(|model| model.weights.load(NORM).expect("a norm"));
    let [wide, narrow] = [wide, narrow].map(|norm| norm.widened().expect("fp64"));
    let [wide, narrow] = [&wide, &narrow].map(|norm| norm.as_slice::<f64>().expect("fp64"));
    for (wide, narrow) in wide.iter().zip(narrow) {
        assert_eq!(*wide as f32, *narrow as f32 * (1.0 + f32::EPSILON));
        assert_ne!(wide, narrow);
    }
}

/// A BLOOM of one rank, its weights bf16 and its norms fp32.
fn mixed(folder: &Path) -> PathBuf {
    checkpoint::bloom(folder, 1, |_, layer, name, shape| {
        let wide = torch::Tensor::counting(shape, 1.0 + f32::EPSILON);
        if name.contains("norm") || layer == 5 {
            return wide;
        }
        let halves = wide.data.chunks(4).flat_map(|bytes| [bytes[2], bytes[3]]);
        torch::Tensor::new("BFloat16Storage", shape, halves.collect())
    })
}

#[test]
fn checkpoints_of_several_types_convert() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = mixed(folder.path());
    let model = || {
        let checkpoint = MegatronCheckpoint::open(&checkpoint, &[]).expect("a checkpoint");
        Converted::new(checkpoint, None, None).expect("a model")
    };
    assert_eq!(model().dtype(), DType::Bf16);
    let notes = model().notes().join("\n");
    assert!(
        notes.contains("stored in bf16, but 8 of 17 in fp32"),
        "{notes}"
    );
    for (asked, norm, weight) in [
        (None, DType::F32, DType::Bf16),
        (Some(DType::Bf16), DType::Bf16, DType::Bf16),
        (Some(DType::F32), DType::F32, DType::F32),
        (Some(DType::F16), DType::F16, DType::F16),
    ] {
        let output = folder.path().join(format!("{asked:?}"));
        let options = Options {
            dtype: asked,
            max_shard_size: ByteSize(5_000_000_000),
            force: false,
            verify: true,
        };
        convert(&model(), &output, &options, &|_| {}).expect("converted");
        let files = SafetensorsFiles::open(&output).expect("weights");
        let stored = |name: &str| files.stored(name).expect("a tensor").dtype;
        assert_eq!(stored("transformer.h.0.input_layernorm.weight"), norm);
        assert_eq!(stored("transformer.h.0.mlp.dense_h_to_4h.weight"), weight);
        // It opens as one model.
        let opened = Candidate::open(&output).expect("a model");
        assert_eq!(opened.dtype, asked.unwrap_or(DType::Bf16));
    }
    // So does the checkpoint itself.
    assert_eq!(
        Candidate::open(&checkpoint).expect("a model").dtype,
        DType::Bf16
    );
}

/// An fp32 model under autocast: what comes of its products is held to the half type, the rest to rounding.
#[test]
fn a_reference_under_autocast_is_held_to_what_it_ran_in() {
    let golden = goldens().join("transformers_bloom_fp32_autocast");
    let outcome = common::run(&common::case(&golden, goldens().join("bloom_fp32_tp1/hf")));
    assert_eq!(outcome.verdict(), Verdict::Pass);
    let note = "the reference ran its products under bf16 autocast";
    assert!(
        outcome.notes.iter().any(|other| other.contains(note)),
        "{:?}",
        outcome.notes
    );
    let is_held_to_rounding = |stage: &str| {
        let mut results = outcome.stages.iter();
        let result = results
            .find(|result| result.stage.as_str() == stage)
            .expect(stage);
        result.metrics.worst_ratio.is_some()
    };
    assert!(is_held_to_rounding("h.0.input_layernorm") && is_held_to_rounding("h.0"));
    assert!(!is_held_to_rounding("h.0.mlp.dense_h_to_4h") && !is_held_to_rounding("h.1"));
    for (name, stage) in [
        (
            "transformer.h.0.self_attention.dense.weight",
            "h.0.self_attention.dense",
        ),
        (
            "transformer.h.0.post_attention_layernorm.bias",
            "h.0.post_attention_layernorm",
        ),
    ] {
        let copy = Copy::of("bloom_fp32_tp1");
        copy.edit_weights(|bytes, place| {
            for value in bytes[place(name)].chunks_mut(4) {
                let wrong = 0.01 + 1.03 * f32::from_le_bytes(value.try_into().expect("four"));
                value.copy_from_slice(&wrong.to_le_bytes());
            }
        });
        let outcome = common::run(&common::case(&golden, copy.model()));
        assert_eq!(outcome.first_failure().expect(name).stage.as_str(), stage);
    }
}

/// The arrays of a dump, in the order of the run.
fn arrays(dump: &Path) -> Vec<PathBuf> {
    let files = dump.read_dir().expect("a folder");
    let paths = files.map(|file| file.expect("a file").path());
    let is_array = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        name.starts_with(|first: char| first.is_ascii_digit())
    };
    let mut arrays: Vec<PathBuf> = paths.filter(is_array).collect();
    arrays.sort();
    arrays
}

fn imported(dump: &Path, name: &str) -> parity::Result<PathBuf> {
    let golden = dump.join(name);
    import(dump, Some(Framework::MegatronDeepspeed), &golden, false).map(|_| golden)
}

fn against(golden: &Path) -> CaseOutcome {
    common::run(&common::case(golden, goldens().join("bloom_bf16_tp1/hf")))
}

/// Logits in fp32 of a bf16 model: its own values in a wider container, or of a head that ran in fp32.
#[test]
fn logits_may_be_wider_than_the_model() {
    let dump = common::raw_dump(&goldens().join("bloom_bf16_tp1"));
    let logits = arrays(dump.path()).pop().expect("logits");
    let wide = npy::read(&logits, Some(DType::Bf16)).expect("logits");
    let wide = wide.cast(DType::F32).expect("fp32");
    for (factor, dtype) in [(1.0, DType::Bf16), (1.0 + 1.0 / 4096.0, DType::F32)] {
        let values = wide.as_slice::<f32>().expect("fp32").iter();
        let changed = values.map(|x| x * factor).collect();
        let changed = Tensor::from_vec(wide.shape(), changed).expect("as many");
        npy::write(&logits, &changed).expect("written");
        let golden = imported(dump.path(), &dtype.to_string()).expect("a golden");
        let opened = Golden::open(&golden).expect("a golden");
        let record = opened.manifest().stage(&"logits".into()).expect("logits");
        assert_eq!(record.dtype, dtype);
        let outcome = against(&golden);
        assert_eq!(outcome.verdict(), Verdict::Pass, "{dtype}");
        let note = "logits was recorded in fp32 and is computed in bf16";
        let is_said = outcome.notes.iter().any(|other| other.contains(note));
        assert_eq!(is_said, dtype == DType::F32);
    }
}

/// torch has few unsigned types: bf16 bits lie in int16, too, and are integers where the run is none in bf16.
#[test]
fn bits_of_bf16_may_be_signed() {
    let dump = common::raw_dump(&goldens().join("bloom_bf16_tp1"));
    for path in arrays(dump.path()) {
        let array = npy::read(&path, Some(DType::Bf16)).expect("an array");
        let array = array.cast(DType::Bf16).expect("a float");
        let bits = array.as_slice::<half::bf16>().expect("bf16").iter();
        let bits = bits.map(|x| x.to_bits() as i16).collect();
        let signed = Tensor::from_vec(array.shape(), bits).expect("as many");
        npy::write(&path, &signed).expect("written");
    }
    let golden = imported(dump.path(), "golden").expect("a golden");
    assert_eq!(against(&golden).verdict(), Verdict::Pass);
    let config = dump.path().join("config.json");
    let text = fs::read_to_string(&config).expect("text");
    fs::write(config, text.replace("bf16", "fp32")).expect("written");
    let error = imported(dump.path(), "again").expect_err("refused");
    let error = error.to_string();
    assert!(
        error.contains("values of a run in fp32, found int16"),
        "{error}"
    );
}
