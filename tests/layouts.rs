//! Checkpoints and models as neighbours lay them out: names that wrappers lengthened, folders in folders, older
//! files of weights, tensors beside the model. They are read with a note, not refused.

use crate::common::torch::{self, Py, dict, file};
use crate::common::{self, Copy, checkpoint, goldens};
use parity::checkpoint::megatron::MegatronCheckpoint;
use parity::convert::Converted;
use parity::diff::{CaseOutcome, Verdict};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use std::fs;
use std::path::Path;

/// Names, types, shapes and bytes.
type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

const GOLDEN: &str = "bloom_bf16_tp1";

fn tensors(model: &Path) -> Tensors {
    let bytes = fs::read(model.join("model.safetensors")).expect("weights");
    let all = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = |(name, view): (String, TensorView<'_>)| {
        (
            name,
            view.dtype(),
            view.shape().to_vec(),
            view.data().to_vec(),
        )
    };
    all.tensors().into_iter().map(tensor).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("as large");
        (name.clone(), view)
    });
    fs::write(path, serialize(views, None).expect("safetensors")).expect("written");
}

/// A golden whose model has other tensors.
fn with_tensors(change: impl FnOnce(&mut Tensors)) -> Copy {
    let copy = Copy::of(GOLDEN);
    let mut all = tensors(&copy.model());
    change(&mut all);
    write(&copy.model().join("model.safetensors"), &all);
    copy
}

fn passes_with(outcome: &CaseOutcome, note: &str) {
    assert_eq!(outcome.verdict(), Verdict::Pass, "{note}");
    let said = outcome.notes.join("\n");
    assert!(said.contains(note), "{note}: {said}");
}

#[test]
fn names_that_wrappers_lengthened_are_read_as_they_were() {
    type Wrapper = fn(&str) -> String;
    let wrappers: [Wrapper; 5] = [
        |name| format!("module.{name}"),
        |name| format!("_orig_mod.{name}"),
        |name| format!("model.{name}"),
        |name| format!("module.module._forward_module.{name}"),
        |name| name.replace("h.0.", "h.0._checkpoint_wrapped_module."),
    ];
    for wrapper in wrappers {
        let copy = with_tensors(|all| {
            all.iter_mut().for_each(|(name, ..)| *name = wrapper(name));
        });
        passes_with(&common::run(&copy.case()), " is read as ");
    }
}

#[test]
fn a_name_with_and_without_its_wrapper_has_to_be_one_tensor() {
    let both = |change: bool| {
        with_tensors(|all| {
            let (name, dtype, shape, mut bytes) = all[0].clone();
            if change {
                bytes[0] ^= 1;
            }
            all.push((format!("module.{name}"), dtype, shape, bytes));
        })
    };
    assert_eq!(common::run(&both(false).case()).verdict(), Verdict::Pass);
    let copy = both(true);
    let opened = parity::diff::Candidate::open(&copy.model());
    let error = opened.err().expect("refused").to_string();
    assert!(error.contains("both, with different values"), "{error}");
}

#[test]
fn tensors_beside_the_model_are_left_out_and_named() {
    for extra in [
        "v_head.summary.weight",
        "rotary_emb.inv_freq",
        "score.weight",
    ] {
        let copy = with_tensors(|all| {
            all.push((extra.into(), Dtype::F32, vec![2], vec![0; 8]));
        });
        passes_with(
            &common::run(&copy.case()),
            &format!("left out, as no part of a BLOOM: {extra}"),
        );
    }
}

/// transformers loads all of a shard that its index names.
#[test]
fn tensors_that_an_index_does_not_place_are_loaded() {
    let copy = Copy::of(GOLDEN);
    let mut first = tensors(&copy.model());
    let second = first.split_off(first.len() / 2);
    fs::remove_file(copy.model().join("model.safetensors")).expect("removed");
    for (file, tensors) in [("a.safetensors", &first), ("b.safetensors", &second)] {
        write(&copy.model().join(file), tensors);
    }
    let map: serde_json::Map<String, serde_json::Value> = [
        (first[0].0.clone(), "a.safetensors".into()),
        (second[0].0.clone(), "b.safetensors".into()),
    ]
    .into_iter()
    .collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(copy.model().join("model.safetensors.index.json"), index).expect("written");
    assert_eq!(common::run(&copy.case()).verdict(), Verdict::Pass);
    // But not where two files have one.
    first.push(second[0].clone());
    write(&copy.model().join("a.safetensors"), &first);
    let error = parity::diff::Candidate::open(&copy.model())
        .err()
        .expect("refused");
    assert!(
        error.to_string().contains("every tensor in one file"),
        "{error}"
    );
}

#[test]
fn weights_in_files_of_torch_are_run() {
    let copy = Copy::of(GOLDEN);
    let all = tensors(&copy.model());
    fs::remove_file(copy.model().join("model.safetensors")).expect("removed");
    let saved = |tensors: &Tensors| {
        let tensors = tensors.iter().map(|(name, _, shape, bytes)| {
            let shape: Vec<i64> = shape.iter().map(|extent| *extent as i64).collect();
            let tensor = torch::Tensor::new("BFloat16Storage", &shape, bytes.clone());
            (name.clone(), Py::Tensor(tensor))
        });
        dict(tensors)
    };
    let single = copy.model().join("pytorch_model.bin");
    fs::write(&single, file(&saved(&all))).expect("written");
    assert_eq!(common::run(&copy.case()).verdict(), Verdict::Pass);
    // As a training loop keeps it.
    let wrapped = dict([("state_dict".to_owned(), saved(&all))]);
    fs::write(&single, file(&wrapped)).expect("written");
    assert_eq!(common::run(&copy.case()).verdict(), Verdict::Pass);
    // In shards.
    fs::remove_file(&single).expect("removed");
    let (first, second) = all.split_at(all.len() / 2);
    let mut map = serde_json::Map::new();
    for (name, tensors) in [("1.bin", first), ("2.bin", second)] {
        let bytes = file(&saved(&tensors.to_vec()));
        fs::write(copy.model().join(name), bytes).expect("written");
        map.extend(
            tensors
                .iter()
                .map(|(tensor, ..)| (tensor.clone(), name.into())),
        );
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    let path = copy.model().join("pytorch_model.bin.index.json");
    fs::write(path, index).expect("written");
    assert_eq!(common::run(&copy.case()).verdict(), Verdict::Pass);
}

#[test]
fn shards_with_lengthened_names_convert() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain =
        |_: i64, layer: usize, _: &str, shape: &[i64]| torch::Tensor::counting(shape, layer as f32);
    let checkpoint = checkpoint::bloom(folder.path(), 1, plain);
    for layer in [1, 3, 5] {
        let path = checkpoint.join(format!("layer_{layer:02}-model_00-model_states.pt"));
        let bytes = fs::read(&path).expect("a file");
        assert!(bytes.windows(6).any(|key| key == b"weight"));
        let opened = parity::checkpoint::torch::TorchFile::open(&path).expect("a file");
        let entries = opened.root().entries().expect("a dictionary");
        let tensors = entries.filter_map(|(key, value)| {
            let record = parity::checkpoint::torch::TensorRecord::from_node(value)?;
            let shape: Vec<i64> = record.shape().iter().map(|extent| *extent as i64).collect();
            let tensor = torch::Tensor::counting(&shape, layer as f32);
            Some((format!("module.{}", key.text()?), Py::Tensor(tensor)))
        });
        let renamed = file(&dict(tensors.collect::<Vec<_>>()));
        fs::write(&path, renamed).expect("written");
    }
    let opened = MegatronCheckpoint::open(&checkpoint, &[]).expect("a checkpoint");
    let model = Converted::new(opened, None, None).expect("a model");
    let notes = model.notes().join("\n");
    assert!(notes.contains("and 16 more likewise"), "{notes}");
}

#[test]
fn checkpoints_are_found_in_folders_of_neighbours() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["weights", "release"] {
        let within = folder.path().join(name);
        fs::create_dir_all(&within).expect("a folder");
        let from = goldens().join("megatron_core_llama/checkpoints/torch_dist_tp2");
        let from = from.join("iter_0000001");
        for entry in from.read_dir().expect("a checkpoint") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), within.join(entry.file_name())).expect("copied");
        }
        let opened = MegatronCheckpoint::open(folder.path(), &[]).expect("a checkpoint");
        assert_eq!(opened.path(), within);
        fs::remove_dir_all(within).expect("removed");
    }
}

#[test]
fn a_missing_file_of_a_layer_is_named() {
    for (tp, missing) in [("bloom_bf16_tp2", 3), ("bloom_bf16_tp2", 4)] {
        let copy = Copy::of(tp);
        let step = copy.golden().join("checkpoint/global_step1");
        for rank in 0..2 {
            let name = format!("layer_{missing:02}-model_{rank:02}-model_states.pt");
            fs::remove_file(step.join(name)).expect("removed");
        }
        let error = MegatronCheckpoint::open(&step, &[]).err().expect("refused");
        let expected = format!("layer_{missing:02}-model_");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}
