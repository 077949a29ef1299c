//! Two sources of one fact: where they contradict each other, an error names both; where weights are there
//! and differ, they are run or refused, never dropped.

use crate::common::torch::{self, Py};
use crate::common::{self, Copy};
use parity::checkpoint::megatron::{Arg, MegatronCheckpoint};
use parity::convert::Converted;
use parity::diff::{Candidate, Verdict};
use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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

/// A GPT-2 of megatron-core that ties its head, with the copy of the embedding that a last stage keeps.
fn with_a_copy(folder: &Path, copy: Option<torch::Tensor>) -> PathBuf {
    let tensors: [(&str, &[i64]); 16] = [
        ("embedding.word_embeddings.weight", &[8, 4]),
        ("embedding.position_embeddings.weight", &[6, 4]),
        ("decoder.layers.0.input_layernorm.weight", &[4]),
        ("decoder.layers.0.input_layernorm.bias", &[4]),
        (
            "decoder.layers.0.self_attention.linear_qkv.weight",
            &[12, 4],
        ),
        ("decoder.layers.0.self_attention.linear_qkv.bias", &[12]),
        (
            "decoder.layers.0.self_attention.linear_proj.weight",
            &[4, 4],
        ),
        ("decoder.layers.0.self_attention.linear_proj.bias", &[4]),
        ("decoder.layers.0.pre_mlp_layernorm.weight", &[4]),
        ("decoder.layers.0.pre_mlp_layernorm.bias", &[4]),
        ("decoder.layers.0.mlp.linear_fc1.weight", &[16, 4]),
        ("decoder.layers.0.mlp.linear_fc1.bias", &[16]),
        ("decoder.layers.0.mlp.linear_fc2.weight", &[4, 16]),
        ("decoder.layers.0.mlp.linear_fc2.bias", &[4]),
        ("decoder.final_layernorm.weight", &[4]),
        ("decoder.final_layernorm.bias", &[4]),
    ];
    let tensors = tensors.map(|(name, shape)| (name, torch::Tensor::counting(shape, 1.0)));
    let copy = copy.map(|copy| ("output_layer.weight", copy));
    let model = tensors.into_iter().chain(copy);
    let model = torch::dict(model.map(|(name, tensor)| (name.to_owned(), Py::Tensor(tensor))));
    let sizes = [
        ("num_layers", 1),
        ("hidden_size", 4),
        ("num_attention_heads", 2),
        ("ffn_hidden_size", 16),
        ("max_position_embeddings", 6),
        ("padded_vocab_size", 8),
    ];
    let mut args: Vec<(String, Py)> = sizes
        .map(|(name, value)| (name.to_owned(), Py::Int(value)))
        .into();
    args.extend([
        ("layernorm_epsilon".into(), Py::Float(1e-5)),
        ("normalization".into(), torch::text("LayerNorm")),
        ("bias_gelu_fusion".into(), Py::Bool(true)),
        (
            "position_embedding_type".into(),
            torch::text("learned_absolute"),
        ),
        (
            "untie_embeddings_and_output_weights".into(),
            Py::Bool(false),
        ),
    ]);
    let state = torch::dict([
        ("args".to_owned(), Py::Object("argparse Namespace", args)),
        ("checkpoint_version".to_owned(), Py::Float(3.0)),
        ("model".to_owned(), model),
    ]);
    let rank = folder.join("iter_0000001/mp_rank_00");
    fs::create_dir_all(&rank).expect("a folder");
    fs::write(rank.join("model_optim_rng.pt"), torch::file(&state)).expect("written");
    folder.join("iter_0000001")
}

#[test]
fn a_last_stages_copy_of_a_tied_embedding_has_to_be_one() {
    let converted = |copy: Option<torch::Tensor>, args: &[(String, Arg)]| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = with_a_copy(folder.path(), copy);
        let checkpoint = MegatronCheckpoint::open(&path, args).expect("a checkpoint");
        Converted::new(checkpoint, None, None)
    };
    let notes = |model: Converted| model.notes().join("\n");
    assert_eq!(notes(converted(None, &[]).expect("a model")), "");
    let copy = || torch::Tensor::counting(&[8, 4], 1.0);
    let equal = notes(converted(Some(copy()), &[]).expect("a model"));
    assert!(equal.contains("output_layer.weight is a copy"), "{equal}");
    let mut drifted = copy();
    drifted.data[..4].copy_from_slice(&(1.0 + 4.0 * f32::EPSILON).to_le_bytes());
    let drifted = notes(converted(Some(drifted), &[]).expect("a model"));
    assert!(
        drifted.contains("a copy of embedding.word_embeddings.weight but for 4.8e-7"),
        "{drifted}"
    );
    let other = || torch::Tensor::counting(&[8, 4], 2.0);
    let error = converted(Some(other()), &[])
        .err()
        .expect("refused")
        .to_string();
    for words in [
        "output_layer.weight",
        "embedding.word_embeddings.weight",
        "1.0e0 apart",
        "--arg",
    ] {
        assert!(error.contains(words), "{error}");
    }
    // The remedy works.
    let name = "untie_embeddings_and_output_weights".to_owned();
    let untied = (name, "true".parse().expect("an argument"));
    let model = converted(Some(other()), &[untied]).expect("a model");
    assert!(
        model
            .tensors()
            .iter()
            .any(|tensor| tensor.name == "lm_head.weight")
    );
}
