//! Conversions: the reference checkpoints against what transformers' own scripts make of them, and
//! the properties of the folder that is written.

use crate::common::torch::{Py, Tensor, dict, file, text};
use crate::common::{self, checkpoint, goldens};
use parity::arch::ArchitectureName;
use parity::checkpoint::megatron::{Arg, MegatronCheckpoint};
use parity::checkpoint::torch::{TensorRecord, TorchFile};
use parity::checkpoint::{SafetensorsFiles, TransformersFolder, Weights};
use parity::convert::{ByteSize, Converted, Options, Report, convert};
use parity::tensor::{DType, Tiled};
use std::fs;
use std::path::{Path, PathBuf};

const DEEPSPEED: [&str; 5] = [
    "bloom_fp32_tp1",
    "bloom_bf16_tp1",
    "bloom_fp16_tp1",
    "bloom_fp32_tp2",
    "bloom_bf16_tp2",
];
const CORE: [&str; 2] = ["megatron_core_llama", "megatron_core_gpt2_gelutanh"];
const CORE_FP32: [&str; 2] = ["torch_dist", "torch_dist_tp2"];
/// Tokens of the megatron-core references; their embeddings are padded to 512.
const TOKENS: Option<usize> = Some(500);

fn options() -> Options {
    Options {
        dtype: None,
        max_shard_size: ByteSize(5_000_000_000),
        force: false,
        verify: true,
    }
}

fn open(checkpoint: &Path, tokens: Option<usize>) -> Converted {
    let checkpoint = MegatronCheckpoint::open(checkpoint, &[]).expect("a checkpoint");
    Converted::new(checkpoint, None, tokens).expect("a model")
}

fn write(model: &Converted, output: &Path, options: &Options) -> Report {
    convert(model, output, options, &|_| {}).expect("converted")
}

/// Asserts that two folders hold the same tensors, to the byte.
fn assert_same_weights(ours: &Path, theirs: &Path) {
    let ours = SafetensorsFiles::open(ours).expect("weights");
    let theirs = SafetensorsFiles::open(theirs).expect("weights");
    assert_eq!(ours.names(), theirs.names());
    for name in ours.names() {
        let (ours, theirs) = (ours.load(name).unwrap(), theirs.load(name).unwrap());
        assert!(ours.bits_equal(&theirs), "{name}: {ours:?}, {theirs:?}");
    }
}

#[test]
fn megatron_deepspeed_gives_what_transformers_script_gives() {
    for name in DEEPSPEED {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("model");
        let model = open(&goldens().join(name).join("checkpoint"), None);
        let report = write(&model, &output, &options());
        assert!(report.verified);
        assert_same_weights(&output, &goldens().join(name).join("hf"));
        let ours = TransformersFolder::open(&output).unwrap();
        let theirs = TransformersFolder::open(goldens().join(name).join("hf")).unwrap();
        assert_eq!(ours.config(), theirs.config());
    }
}

#[test]
fn megatron_core_gives_what_the_reference_conversion_gives() {
    for name in CORE {
        let hf = goldens().join(name).join("hf");
        for format in CORE_FP32 {
            let folder = tempfile::tempdir().unwrap();
            let output = folder.path().join("model");
            let checkpoint = goldens().join(name).join("checkpoints").join(format);
            write(&open(&checkpoint, TOKENS), &output, &options());
            assert_same_weights(&output, &hf);
            assert_same_settings(&output, &hf);
        }
    }
}

/// Two ways in which megatron-core saved one model: two ranks with two experts each, and two pipeline stages of such
/// ranks. What either has alone is in no other place.
#[test]
fn experts_and_layers_of_ranks_are_joined() {
    let checkpoints = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints");
    let folder = tempfile::tempdir().unwrap();
    let [experts, both] = ["experts_ep2", "experts_pp2_ep2"].map(|name| {
        let model = open(&checkpoints.join(name), None);
        assert_eq!(model.tensors().len(), 87);
        let output = folder.path().join(name);
        write(&model, &output, &options());
        output
    });
    assert_same_weights(&experts, &both);
    let checkpoint = MegatronCheckpoint::open(&checkpoints.join("experts_pp2_ep2"), &[]).unwrap();
    let of_last = "decoder.layers.3.mlp.experts.local_experts.3.linear_fc2.weight";
    let listed = checkpoint.get(of_last).unwrap();
    assert_eq!(listed.file, "mp_rank_00_001_001");
    // A rank that is missing is named as its folder would be.
    let part = folder.path().join("part");
    common::copy(&checkpoints.join("experts_pp2_ep2/iter_0000001"), &part);
    fs::remove_dir_all(part.join("mp_rank_00_001_000")).unwrap();
    let error = MegatronCheckpoint::open(&part, &[])
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("expected mp_rank_00_001_000, found 3 folders of 1 × 2 × 2 ranks"),
        "{error}"
    );
}

/// Every setting of ours that the reference has, too, has the same value.
fn assert_same_settings(ours: &Path, theirs: &Path) {
    let [ours, theirs] = [ours, theirs].map(|folder| {
        let text = fs::read_to_string(folder.join("config.json")).unwrap();
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).unwrap()
    });
    // Which tokens begin and end a text is the tokenizer's business; a checkpoint does not say.
    let known = |key: &String| theirs.contains_key(key) && !key.ends_with("_token_id");
    let shared = ours.iter().filter(|(key, _)| known(key));
    let mut count = 0;
    for (key, value) in shared {
        assert_eq!(value, &theirs[key], "{key}");
        count += 1;
    }
    assert!(count >= 13, "{count} settings compared");
}

/// The bf16 checkpoints hold the fp32 ones' weights, rounded by torch.
#[test]
fn rounding_to_another_dtype_is_torchs() {
    for name in CORE {
        let checkpoints = goldens().join(name).join("checkpoints");
        let folder = tempfile::tempdir().unwrap();
        let [rounded, stored] = ["rounded", "stored"].map(|name| folder.path().join(name));
        let bf16 = Options {
            dtype: Some(DType::Bf16),
            ..options()
        };
        write(
            &open(&checkpoints.join("torch_dist_tp2"), TOKENS),
            &rounded,
            &bf16,
        );
        write(
            &open(&checkpoints.join("torch_bf16_tp1"), TOKENS),
            &stored,
            &options(),
        );
        assert_same_weights(&rounded, &stored);
    }
}

#[test]
fn files_are_no_larger_than_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (one, many) = (folder.path().join("one"), folder.path().join("many"));
    let model = open(&goldens().join("bloom_bf16_tp2/checkpoint"), None);
    write(&model, &one, &options());
    let small = Options {
        max_shard_size: ByteSize(70_000),
        ..options()
    };
    let report = write(&model, &many, &small);
    assert!(report.files > 3, "{report:?}");
    assert_same_weights(&one, &many);
    let count = many.read_dir().unwrap().count();
    assert_eq!(count, report.files + 2, "weights, an index and a config");
}

#[test]
fn a_model_that_is_there_is_replaced_only_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model");
    let model = open(&goldens().join("bloom_bf16_tp2/checkpoint"), None);
    let small = Options {
        max_shard_size: ByteSize(70_000),
        ..options()
    };
    write(&model, &output, &small);
    fs::write(output.join("tokenizer.json"), "{}").unwrap();
    let before = fs::read(output.join("config.json")).unwrap();
    assert!(convert(&model, &output, &options(), &|_| {}).is_err());
    assert_eq!(fs::read(output.join("config.json")).unwrap(), before);

    let force = Options {
        force: true,
        ..options()
    };
    write(&model, &output, &force);
    let mut names: Vec<_> = output
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    // The tokenizer is the user's; the shards of the model before would be read with the new one.
    assert_eq!(
        names,
        ["config.json", "model.safetensors", "tokenizer.json"]
    );
    assert_eq!(
        folder.path().read_dir().unwrap().count(),
        1,
        "nothing left beside it"
    );
}

/// A fault in mid-run: the last file of weights cannot be put in its place. One thread, so that the others are
/// written before it.
fn interrupt(model: &Converted, output: &Path, options: &Options, last: &str) {
    let last = output.with_extension("incomplete").join(last);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1);
    let run = one.build().unwrap().install(|| {
        convert(model, output, options, &|event| {
            if let parity::convert::Event::Writing { .. } = event {
                fs::create_dir(&last).unwrap();
            }
        })
    });
    assert!(run.is_err());
    fs::remove_dir(&last).unwrap();
}

#[test]
fn an_interrupted_run_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model");
    let model = open(&goldens().join("bloom_bf16_tp2/checkpoint"), None);
    let small = Options {
        max_shard_size: ByteSize(70_000),
        ..options()
    };
    interrupt(&model, &output, &small, "model-00004-of-00004.safetensors");
    assert!(!output.exists(), "nothing half-written");
    let report = write(&model, &output, &small);
    assert!(
        report.resumed > 0 && report.resumed < report.files,
        "{report:?}"
    );
    assert_same_weights(&output, &goldens().join("bloom_bf16_tp2/hf"));

    // Another conversion does not take files of this one, and leaves none.
    let other = folder.path().join("other");
    interrupt(&model, &other, &small, "model-00004-of-00004.safetensors");
    assert_eq!(write(&model, &other, &options()).resumed, 0);
    assert_same_weights(&other, &output);
    assert_eq!(other.read_dir().unwrap().count(), 2, "weights and a config");
}

#[test]
fn verification_sees_a_changed_byte() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model");
    let model = open(
        &goldens().join("megatron_core_llama/checkpoints/torch_dist_tp2"),
        TOKENS,
    );
    let staged = folder.path().join("model.incomplete/model.safetensors");
    // The file is damaged between writing and reading back.
    let run = convert(&model, &output, &options(), &|event| {
        if let parity::convert::Event::Verifying { .. } = event {
            let mut bytes = fs::read(&staged).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&staged, bytes).unwrap();
        }
    });
    let error = run.expect_err("a fault").to_string();
    assert!(error.contains("expected the shards' values"), "{error}");
    assert!(!output.exists());
}

fn with_argument(model: &str, name: &str, value: Arg) -> parity::Result<Converted> {
    let folder = goldens().join(model).join("checkpoints/torch_dist");
    let overrides = [(name.to_owned(), value)];
    Converted::new(MegatronCheckpoint::open(&folder, &overrides)?, None, None)
}

/// What is said of an argument that is refused.
fn refusal(model: &str, name: &str, value: Arg) -> String {
    let error = with_argument(model, name, value).err();
    error.map(|error| error.to_string()).unwrap_or_default()
}

/// A setting that changes what is computed is carried over or refused by name, never dropped.
#[test]
fn settings_that_change_the_model_are_never_dropped() {
    for (name, value) in [
        ("apply_residual_connection_post_layernorm", Arg::Flag(true)),
        ("fp32_residual_connection", Arg::Flag(true)),
        ("window_size", Arg::Int(128)),
        ("window_size", Arg::Other("[4, 0]".into())),
        ("softmax_scale", Arg::Float(0.5)),
        ("softmax_type", Arg::Text("off-by-one".into())),
        ("num_experts", Arg::Int(8)),
        ("activation_func", Arg::Text("relu".into())),
        ("position_embedding_type", Arg::Text("mrope".into())),
        ("position_embedding_type", Arg::Text("none".into())),
        ("normalization", Arg::Text("NoRMSNorm".into())),
        ("what_megatron_adds_tomorrow", Arg::Int(0)),
    ] {
        for model in CORE {
            let error = refusal(model, name, value.clone());
            assert!(error.contains(name), "{model} with {name}: {error}");
        }
    }
    let name = "rotary_seq_len_interpolation_factor";
    let linear = with_argument(CORE[0], name, Arg::Int(4)).unwrap();
    let linear = linear.config().unwrap();
    assert!(format!("{:?}", linear.model).contains("Linear { factor: 4.0 }"));
    for neutral in [("window_size", "[-1, -1]"), ("softmax_type", "vanilla")] {
        let (name, shown) = neutral;
        let value = Arg::Other(shown.into());
        assert!(with_argument(CORE[0], name, value).is_ok(), "{name}");
    }
}

/// What is known to change the computation is not to be waved through; what is not known may be.
#[test]
fn a_refusal_says_what_an_argument_does() {
    let error = refusal(CORE[0], "window_size", Arg::Other("[4, 0]".into()));
    assert!(error.contains("attention sees a window"), "{error}");
    assert!(error.contains("--arg window_size=None"), "{error}");
    assert!(!error.contains("--without-effect"), "{error}");
    let error = refusal(CORE[0], "nobody_has_heard_of_it", Arg::Float(0.0));
    assert!(error.contains("=0.0 (unknown to parity)"), "{error}");
    assert!(error.contains("--without-effect nobody_has_heard_of_it"));
    assert!(!error.contains("--arg"), "{error}");
}

/// GELU without its fused kernel is erf's, but for flags that make it tanh's or did so once.
#[test]
fn a_gelu_of_another_formula_is_refused() {
    let model = CORE[1];
    let folder = goldens().join(model).join("checkpoints/torch_dist");
    let with = |fused: bool, name: &str| {
        let arguments = [
            ("bias_gelu_fusion".to_owned(), Arg::Flag(fused)),
            ("bias_activation_fusion".to_owned(), Arg::None),
            (name.to_owned(), Arg::Flag(true)),
        ];
        let checkpoint = MegatronCheckpoint::open(&folder, &arguments).unwrap();
        Converted::new(checkpoint, None, None)
    };
    for name in [
        "openai_gelu",
        "use_te_activation_func",
        "use_transformer_engine_op_fuser",
    ] {
        let error = with(false, name).err().expect("refused").to_string();
        assert!(error.contains(name), "{error}");
        let tanh = with(true, name).expect("tanh either way");
        let config = tanh.config_json(DType::F32);
        assert_eq!(config["activation_function"], "gelu_new");
        // A Llama has no GELU.
        assert!(with_argument(CORE[0], name, Arg::Flag(true)).is_ok());
    }
}

/// Two names of one setting have to say the same, numbers however they are written.
#[test]
fn names_of_one_argument_have_to_agree() {
    for (model, own, other, value) in [
        (CORE[0], "layernorm_epsilon", "norm_epsilon", "1e-6"),
        (
            CORE[0],
            "share_embeddings_and_output_weights",
            "untie_embeddings_and_output_weights",
            "false",
        ),
        (
            CORE[1],
            "bias_activation_fusion",
            "bias_gelu_fusion",
            "false",
        ),
    ] {
        let error = refusal(model, other, value.parse().unwrap());
        assert!(error.contains(own) && error.contains(other), "{error}");
        assert!(error.contains(&format!("--arg {own}=None")), "{error}");
    }
    let same = [
        ("rotary_seq_len_interpolation_factor", Arg::Int(4)),
        ("seq_len_interpolation_factor", Arg::Float(4.0)),
    ];
    let same = same.map(|(name, value)| (name.to_owned(), value));
    let folder = goldens().join(CORE[0]).join("checkpoints/torch_dist");
    let checkpoint = MegatronCheckpoint::open(&folder, &same).unwrap();
    assert!(Converted::new(checkpoint, None, None).is_ok());
}

/// An argument that is given against the checkpoint's own is said.
#[test]
fn an_overruled_argument_is_said() {
    let notes = |name: &str, value: Arg| {
        let model = with_argument(CORE[0], name, value).unwrap();
        model.notes().join("\n")
    };
    let said = notes("rotary_base", Arg::Int(500));
    assert!(
        said.contains("rotary_base=500 as --arg says, where the checkpoint says 10000"),
        "{said}"
    );
    assert_eq!(notes("rotary_base", Arg::Float(1e4)), "");
    assert_eq!(notes("iteration_of_a_friend", Arg::None), "");
}

/// Megatron adds one to the weights of norms that it keeps less one.
#[test]
fn weights_of_norms_that_lack_one_get_it() {
    let folder = tempfile::tempdir().unwrap();
    for model in CORE {
        let plain = with_argument(model, "apply_layernorm_1p", Arg::Flag(false)).unwrap();
        for name in ["apply_layernorm_1p", "layernorm_zero_centered_gamma"] {
            let less_one = with_argument(model, name, Arg::Flag(true)).unwrap();
            assert!(
                less_one
                    .notes()
                    .iter()
                    .any(|note| note.contains("less one"))
            );
            let output = folder.path().join(model).join(name);
            write(&less_one, &output, &options());
            let written = SafetensorsFiles::open(&output).unwrap();
            for tensor in plain.tensors() {
                let before = tensor.to_tensor().unwrap();
                let after = written.load(&tensor.name).unwrap();
                let is_norm = tensor.name.ends_with("weight")
                    && (tensor.name.contains("norm") || tensor.name.contains("ln_"));
                let added = if is_norm { 1.0 } else { 0.0 };
                let [before, after] = [&before, &after].map(|all| all.as_slice::<f32>().unwrap());
                let same = before
                    .iter()
                    .zip(after)
                    .all(|(a, b)| (f64::from(*a) + added) as f32 == *b);
                assert!(same, "{}", tensor.name);
            }
        }
    }
}

/// Converts a checkpoint that lacks arguments: with none first, then with those that the error asks for, as it
/// says to give them. Returns what is printed.
fn answered(checkpoint: &Path, output: &Path, answers: &[(&str, &str)]) -> String {
    let parity = |more: &[String]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_parity"));
        command.arg("convert").arg(checkpoint);
        command.arg("-o").arg(output).arg("--verify").args(more);
        command.output().expect("parity runs")
    };
    let refused = parity(&[]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{error}");
    let words = error.split_whitespace();
    let asked = words.filter_map(|word| word.strip_suffix("=VALUE"));
    let asked: Vec<&str> = asked.collect();
    let known: Vec<&str> = answers.iter().map(|(name, _)| *name).collect();
    assert_eq!(asked, known);
    let given = answers
        .iter()
        .flat_map(|(name, value)| ["--arg".to_owned(), format!("{name}={value}")]);
    let given: Vec<String> = given.collect();
    let done = parity(&given);
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{error}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A checkpoint without arguments is asked about all at once, and converts once they are given.
#[test]
fn all_that_is_missing_is_asked_for_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny(folder.path(), |_, _, _| {});
    fs::remove_file(checkpoint.join("mp_rank_00_model_states.pt")).unwrap();
    let said = answered(&checkpoint, &folder.path().join("out"), &TINY);
    assert!(
        said.contains("otherwise: apply_residual_connection_post_layernorm\n"),
        "{said}"
    );
}

/// The same of a folder of NeMo, whose `common.pt` holds none.
#[test]
fn a_folder_of_nemo_is_asked_about_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let model = goldens().join("megatron_core_llama");
    let weights = folder.path().join("nemo/weights");
    fs::create_dir_all(&weights).unwrap();
    let from = model.join("checkpoints/torch_dist/iter_0000001");
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), weights.join(entry.file_name())).unwrap();
    }
    fs::write(weights.join("common.pt"), file(&dict([]))).unwrap();
    let context = folder.path().join("nemo/context");
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("model.yaml"), "config:\n  num_layers: 3\n").unwrap();
    let answers = [
        ("hidden_size", "64"),
        ("num_attention_heads", "4"),
        ("num_query_groups", "2"),
        ("num_layers", "3"),
        ("ffn_hidden_size", "176"),
        ("layernorm_epsilon", "1e-5"),
        ("swiglu", "true"),
        ("position_embedding_type", "rope"),
        ("max_position_embeddings", "32"),
        ("rotary_base", "10000"),
        ("rotary_percent", "1"),
    ];
    let output = folder.path().join("out");
    let said = answered(&folder.path().join("nemo"), &output, &answers);
    for off in [
        "apply_layernorm_1p",
        "rotary_seq_len_interpolation_factor",
        "use_rope_scaling",
    ] {
        assert!(said.contains(off), "{said}");
    }
    let whole = open(&model.join("checkpoints/torch_dist"), None);
    let written = SafetensorsFiles::open(&output).unwrap();
    for tensor in whole.tensors() {
        let same = written.load(&tensor.name).unwrap();
        assert!(
            same.bits_equal(&tensor.to_tensor().unwrap()),
            "{}",
            tensor.name
        );
    }
}

/// A switch that is on asks for what goes with it, together with the rest.
#[test]
fn what_a_switch_needs_is_asked_for_with_the_rest() {
    let folder = goldens().join(CORE[0]).join("checkpoints/torch_dist");
    let given = [
        ("use_rope_scaling", Arg::Flag(true)),
        ("rotary_base", Arg::None),
    ];
    let given = given.map(|(name, value)| (name.to_owned(), value));
    let checkpoint = MegatronCheckpoint::open(&folder, &given).unwrap();
    let error = Converted::new(checkpoint, None, None).err().unwrap();
    let asked = "--arg rotary_base=VALUE --arg rope_scaling_factor=VALUE";
    assert!(error.to_string().ends_with(asked), "{error}");
}

/// What is not known is taken at the user's word, and said.
#[test]
fn an_argument_can_be_said_to_be_without_effect() {
    let folder = goldens().join(CORE[0]).join("checkpoints/torch_dist");
    let unknown = [("nobody_has_heard_of_it".to_owned(), Arg::Int(0))];
    let open = || MegatronCheckpoint::open(&folder, &unknown).unwrap();
    let error = Converted::new(open(), None, None)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("--without-effect nobody_has_heard_of_it"),
        "{error}"
    );
    let names = ["nobody_has_heard_of_it".to_owned()];
    let model = Converted::new(open().without_arguments(&names).unwrap(), None, None).unwrap();
    assert!(
        model
            .notes()
            .iter()
            .any(|note| note.contains("nobody_has_heard_of_it=0"))
    );
    assert!(open().without_arguments(&["mistyped".to_owned()]).is_err());
}

/// No config is written that nobody could run.
#[test]
fn a_config_that_makes_no_sense_is_refused() {
    for model in CORE {
        for (name, value) in [
            ("num_attention_heads", Arg::Int(7)),
            ("layernorm_epsilon", Arg::Float(-1.0)),
            ("attention_dropout", Arg::Float(1.5)),
        ] {
            let error = refusal(model, name, value);
            assert!(!error.is_empty(), "{model} with {name}");
        }
    }
    let model = "megatron_core_llama";
    assert!(with_argument(model, "rotary_base", Arg::Int(-1)).is_err());
    let bloom = goldens().join("bloom_bf16_tp1/checkpoint");
    for (name, value) in [
        ("num_attention_heads", Arg::Int(7)),
        ("layernorm_epsilon", Arg::Float(-1.0)),
        ("hidden_dropout", Arg::Float(-0.1)),
    ] {
        let overrides = [(name.to_owned(), value)];
        let checkpoint = MegatronCheckpoint::open(&bloom, &overrides).unwrap();
        let error = Converted::new(checkpoint, None, None).err();
        assert!(error.is_some(), "{name}");
    }
}

/// Files of an interrupted run are those of the same conversion only.
#[test]
fn another_conversion_of_the_same_shapes_starts_afresh() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model");
    let small = Options {
        max_shard_size: ByteSize(400_000),
        ..options()
    };
    let plain = with_argument(CORE[0], "iteration", Arg::Int(1)).unwrap();
    let files = write(&plain, &output, &small).files;
    fs::remove_dir_all(&output).unwrap();
    let last = format!("model-{files:05}-of-{files:05}.safetensors");
    let resumed = |other: &Converted| {
        interrupt(&plain, &output, &small, &last);
        let report = write(other, &output, &small);
        fs::remove_dir_all(&output).unwrap();
        report.resumed
    };
    assert!(resumed(&plain) > 0);
    // Another value, another order of the same elements.
    let less_one = with_argument(CORE[0], "apply_layernorm_1p", Arg::Flag(true)).unwrap();
    assert_eq!(resumed(&less_one), 0);
    let theta = with_argument(CORE[0], "rotary_base", Arg::Int(500)).unwrap();
    assert_eq!(resumed(&theta), 0);
}

/// What a checkpoint of [`tiny`] says in its arguments.
const TINY: [(&str, &str); 6] = [
    ("hidden_size", "4"),
    ("num_attention_heads", "2"),
    ("num_layers", "1"),
    ("layernorm_epsilon", "1e-5"),
    ("position_embedding_type", "alibi"),
    ("bias_gelu_fusion", "true"),
];

/// A tiny BLOOM of two ranks in Megatron-DeepSpeed's format: hidden 4, 2 heads, 1 layer.
fn tiny(folder: &Path, change: impl Fn(usize, &str, &mut Tensor)) -> PathBuf {
    checkpoint::bloom(folder, 2, |rank, layer, name, shape| {
        let mut tensor = Tensor::counting(shape, layer as f32);
        change(rank as usize, name, &mut tensor);
        tensor
    })
}

#[test]
fn replicas_that_drifted_are_averaged_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny(folder.path(), |rank, name, tensor| {
        if rank == 1 && name == "input_layernorm.weight" {
            tensor.data[..4].copy_from_slice(&3.5_f32.to_le_bytes());
        }
    });
    let model = open(&checkpoint, None);
    let drifts: Vec<_> = model.drifts().iter().collect();
    assert_eq!(
        drifts,
        [(&"transformer.h.0.input_layernorm.weight".to_owned(), &0.5)]
    );
    let weight = model.load("h.0.input_layernorm.weight").unwrap();
    assert_eq!(weight.as_slice::<f32>().unwrap(), [3.25, 4.0, 5.0, 6.0]);
}

#[test]
fn arguments_can_be_given_where_a_checkpoint_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny(folder.path(), |_, _, _| {});
    fs::remove_file(checkpoint.join("mp_rank_00_model_states.pt")).unwrap();
    let open = |given: &[(String, Arg)]| {
        let checkpoint = MegatronCheckpoint::open(&checkpoint, given)?;
        Converted::new(checkpoint, None, None)
    };
    let error = open(&[]).err().expect("refused").to_string();
    assert!(error.contains("--arg hidden_size=VALUE"), "{error}");
    let given = TINY.map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
    let model = open(&given).expect("a model");
    assert_eq!(model.architecture(), ArchitectureName::Bloom);
}

#[test]
fn the_vocabularys_padding_is_cut_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny(folder.path(), |_, _, _| {});
    let rows = |tokens| {
        let model = open(&checkpoint, tokens);
        let settings = model.config_json(DType::F32)["vocab_size"]
            .as_u64()
            .unwrap();
        let weight = model.load("word_embeddings.weight").unwrap();
        assert_eq!(weight.shape()[0] as u64, settings);
        settings
    };
    assert_eq!((rows(None), rows(Some(11))), (16, 11));
    let checkpoint = MegatronCheckpoint::open(&checkpoint, &[]).unwrap();
    assert!(Converted::new(checkpoint, None, Some(17)).is_err());
}

#[test]
fn more_than_ten_ranks_are_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("global_step1");
    fs::create_dir(&path).unwrap();
    for rank in 0..12 {
        let tensor = Tensor::counting(&[1, 2], rank as f32);
        let name = format!("layer_01-model_{rank:02}-model_states.pt");
        let state = dict([("word_embeddings.weight".to_owned(), Py::Tensor(tensor))]);
        fs::write(path.join(name), file(&state)).unwrap();
    }
    let checkpoint = MegatronCheckpoint::open(&path, &[]).unwrap();
    assert_eq!(checkpoint.ranks(), 12);
    let partition = parity::checkpoint::megatron::Partition::Axis(0);
    let joined = checkpoint
        .joined("word_embeddings.weight", partition)
        .unwrap();
    let first: Vec<f32> = joined.tiled.to_tensor().unwrap().as_slice::<f32>().unwrap()[..]
        .iter()
        .step_by(2)
        .copied()
        .collect();
    assert_eq!(first, (0..12).map(|rank| rank as f32).collect::<Vec<_>>());
}

/// A pipeline of two stages numbers its layers from 0 in each.
#[test]
fn layers_of_pipeline_stages_are_counted_through() {
    let folder = tempfile::tempdir().unwrap();
    for stage in 0..2 {
        let path = folder.path().join(format!("mp_rank_00_{stage:03}"));
        fs::create_dir(&path).unwrap();
        let layers = (0..2).map(|layer| {
            let tensor = Tensor::counting(&[2], (10 * stage + layer) as f32);
            let name = format!("decoder.layers.{layer}.input_layernorm.weight");
            (name, Py::Tensor(tensor))
        });
        let state = dict([("model".to_owned(), dict(layers))]);
        fs::write(path.join("model_optim_rng.pt"), file(&state)).unwrap();
    }
    let checkpoint = MegatronCheckpoint::open(folder.path(), &[]).unwrap();
    let partition = parity::checkpoint::megatron::Partition::Replicated;
    for (layer, first) in [0.0_f32, 1.0, 10.0, 11.0].into_iter().enumerate() {
        let name = format!("decoder.layers.{layer}.input_layernorm.weight");
        let joined = checkpoint.joined(&name, partition).unwrap();
        let values = joined.tiled.to_tensor().unwrap();
        assert_eq!(values.as_slice::<f32>().unwrap()[0], first);
    }
}

#[test]
fn legacy_files_and_views_are_read() {
    let folder = tempfile::tempdir().unwrap();
    // A transposed part of a storage: rows 1 and 2 of 4 × 3, as columns.
    let view = Tensor {
        offset: 3,
        shape: vec![3, 2],
        strides: vec![1, 3],
        ..Tensor::counting(&[4, 3], 0.0)
    };
    let root = dict([
        ("view".to_owned(), Py::Tensor(view)),
        ("name".to_owned(), text("a model")),
    ]);
    for (name, bytes) in [
        ("zip", file(&root)),
        ("legacy", common::torch::legacy(&root, 4)),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let opened = TorchFile::open(&path).unwrap();
        assert_eq!(
            opened.root().get("name").and_then(|node| node.text()),
            Some("a model")
        );
        let record = TensorRecord::from_node(opened.root().get("view").unwrap()).unwrap();
        let tensor = Tiled::one(opened.strided("view", &record).unwrap())
            .to_tensor()
            .unwrap();
        assert_eq!(tensor.shape(), [3, 2]);
        assert_eq!(
            tensor.as_slice::<f32>().unwrap(),
            [3.0, 6.0, 4.0, 7.0, 5.0, 8.0]
        );
    }
}

#[test]
fn replicas_of_another_weight_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny(folder.path(), |rank, name, tensor| {
        if rank == 1 && name == "input_layernorm.weight" {
            tensor.data[..4].copy_from_slice(&9.5_f32.to_le_bytes());
        }
    });
    let checkpoint = MegatronCheckpoint::open(&checkpoint, &[]).expect("a checkpoint");
    let error = Converted::new(checkpoint, None, None)
        .err()
        .expect("refused")
        .to_string();
    for words in [
        "input_layernorm.weight",
        "rank 0",
        "rank 1",
        "6.500e0 apart",
    ] {
        assert!(error.contains(words), "{error}");
    }
}
