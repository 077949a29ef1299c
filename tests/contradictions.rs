//! Two sources of one fact: where they contradict each other, an error names both; where weights are there
//! and differ, they are run or refused, never dropped.

use crate::common::{self, Copy};
use parity::diff::{Candidate, Verdict};
use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Adds a tensor to a model's file, made from another one's bytes.
fn add(model: &Path, name: &str, from: &str, change: impl FnOnce(&mut [u8])) {
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let source = file.tensor(from).expect("a tensor");
    let mut data = source.data().to_vec();
    change(&mut data);
    let mut all: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
    let added = TensorView::new(source.dtype(), source.shape().to_vec(), &data).expect("a tensor");
    all.insert(name.to_owned(), added);
    fs::write(path, serialize(all, None).expect("safetensors")).expect("written");
}

fn refusal(model: &Path) -> String {
    match Candidate::open(model) {
        Ok(_) => panic!("not refused"),
        Err(e) => e.to_string(),
    }
}

const EMBEDDING: &str = "word_embeddings.weight";

/// The names of BLOOM's settings that transformers has two of.
#[test]
fn settings_of_two_names_have_to_agree() {
    for (name, alias, value, other) in [
        ("n_head", "num_attention_heads", 8, 4),
        ("n_layer", "num_hidden_layers", 2, 1),
        ("n_embed", "hidden_size", 64, 32),
    ] {
        for (value_of_alias, refused) in [(value, false), (other, true)] {
            let copy = Copy::of("bloom_fp32_tp1");
            let path = copy.model().join("config.json");
            let text = fs::read_to_string(&path).expect("a config");
            let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            config[name] = value.into();
            config[alias] = value_of_alias.into();
            fs::write(&path, config.to_string()).expect("written");
            if refused {
                let error = refusal(&copy.model());
                assert!(error.contains(name) && error.contains(alias), "{error}");
            } else {
                Candidate::open(&copy.model()).expect("a model");
            }
        }
    }
}

#[test]
fn a_tensor_under_two_names_has_to_be_one() {
    for (damage, refused) in [(0, false), (1, true)] {
        let copy = Copy::of("bloom_fp32_tp1");
        let names = copy.tensors();
        let prefix = "transformer.";
        let is_prefixed = names.iter().any(|name| name.starts_with(prefix));
        let (from, name) = if is_prefixed {
            (format!("{prefix}ln_f.weight"), "ln_f.weight".to_owned())
        } else {
            ("ln_f.weight".to_owned(), format!("{prefix}ln_f.weight"))
        };
        add(&copy.model(), &name, &from, |bytes| bytes[0] ^= damage);
        if refused {
            let error = refusal(&copy.model());
            assert!(
                error.contains("transformer.ln_f.weight")
                    && error.contains("with different values"),
                "{error}"
            );
        } else {
            Candidate::open(&copy.model()).expect("a model");
        }
    }
}

#[test]
fn a_folder_holds_one_model() {
    let copy = Copy::of("bloom_fp32_tp2");
    let shards = copy.golden().join("checkpoint");
    for entry in copy.model().read_dir().expect("a folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, shards.join(path.file_name().expect("a name"))).expect("copied");
    }
    let error = refusal(&shards);
    assert!(
        error.contains("both") && error.contains("shards"),
        "{error}"
    );

    let copy = Copy::of("bloom_fp32_tp1");
    fs::write(
        copy.model().join("model.safetensors.index.json"),
        "{\"weight_map\": {}}",
    )
    .expect("written");
    let error = refusal(&copy.model());
    assert!(
        error.contains("model.safetensors and model.safetensors.index.json"),
        "{error}"
    );
}

#[test]
fn two_files_of_one_layer_are_refused() {
    let copy = Copy::of("bloom_fp32_tp2");
    let folder = copy.golden().join("checkpoint");
    let mut open = vec![folder];
    let mut layer = None;
    while let Some(folder) = open.pop() {
        for entry in folder.read_dir().expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .expect("a name")
                .to_owned();
            if path.is_dir() {
                open.push(path);
            } else if name.starts_with("layer_04-model_00") {
                layer = Some((path, name));
            }
        }
    }
    let (path, name) = layer.expect("a layer's file");
    fs::copy(
        &path,
        path.with_file_name(name.replace("layer_04", "layer_4")),
    )
    .expect("copied");
    let error = refusal(&copy.golden().join("checkpoint"));
    assert!(
        error.contains("one file of layer 4") && error.contains("layer_04"),
        "{error}"
    );
}

/// A head beside the embedding that it is tied to.
#[test]
fn a_head_that_differs_from_its_embedding_is_run() {
    for (damage, verdict) in [(0, Verdict::Pass), (0x40, Verdict::Fail)] {
        let copy = Copy::of("bloom_bf16_tp1");
        let name = copy
            .tensors()
            .into_iter()
            .find(|name| name.ends_with(EMBEDDING))
            .expect("an embedding");
        add(&copy.model(), "lm_head.weight", &name, |bytes| {
            for value in bytes.chunks_mut(2).step_by(7) {
                value[0] ^= damage;
            }
        });
        let outcome = common::run(&copy.case());
        assert_eq!(outcome.verdict(), verdict, "{:?}", outcome.notes);
        let note = outcome
            .notes
            .iter()
            .find(|note| note.contains("lm_head.weight"))
            .expect("a note");
        match verdict {
            Verdict::Pass => assert!(note.contains("and equal"), "{note}"),
            Verdict::Fail => {
                assert!(note.contains("run as a head of its own"), "{note}");
                let first = outcome.first_failure().expect("a failure");
                assert_eq!(first.stage.as_str(), "logits");
            }
        }
    }
}
