//! Checkpoints that are refused: with one sentence that names the file, what was expected, what was
//! found and what to do, and with nothing written.

use crate::common::checkpoint::bloom_args;
use crate::common::torch::{Py, Tensor, dict, file, legacy, text, zip};
use crate::common::{goldens, torch};
use parity::Result;
use parity::checkpoint::megatron::{MegatronCheckpoint, Partition};
use parity::checkpoint::torch::{TensorRecord, TorchFile};
use parity::convert::{ByteSize, Converted, Options, convert};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

/// Converts `checkpoint`, which is in `folder`, and returns why that is refused.
fn refusal(folder: &Path, checkpoint: &Path) -> String {
    let output = folder.join("model");
    let options = Options {
        dtype: None,
        max_shard_size: ByteSize(1 << 20),
        force: false,
        verify: true,
    };
    let started = Instant::now();
    let run = MegatronCheckpoint::open(checkpoint, &[])
        .and_then(|checkpoint| Converted::new(checkpoint, None, None))
        .and_then(|model| convert(&model, &output, &options, &|_| {}));
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "refused in time"
    );
    let error = run.expect_err("refused").to_string();
    assert!(!output.exists(), "nothing half-written");
    assert!(!folder.join("model.incomplete").exists(), "nothing started");
    error.replace(&folder.display().to_string(), "DIR")
}

/// A reference checkpoint with something done to it.
fn damaged(reference: &str, damage: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("ckpt");
    copy(&goldens().join(reference), &checkpoint);
    damage(&checkpoint);
    refusal(folder.path(), &checkpoint)
}

fn deepspeed(damage: impl FnOnce(&Path)) -> String {
    damaged("bloom_bf16_tp2/checkpoint", |path| {
        damage(&path.join("global_step1"))
    })
}

fn core(format: &str, damage: impl FnOnce(&Path)) -> String {
    let reference = format!("megatron_core_llama/checkpoints/{format}");
    damaged(&reference, |path| damage(&path.join("iter_0000001")))
}

fn remove(path: &Path, name: &str) {
    fs::remove_file(path.join(name)).unwrap();
}

/// Replaces a layer's file of a rank by another state.
fn replace(path: &Path, name: &str, state: impl IntoIterator<Item = (&'static str, Py)>) {
    let entries = state
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    fs::write(path.join(name), file(&dict(entries))).unwrap();
}

const LAST: &str = "layer_06-model_01-model_states.pt";

fn bf16(shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    Tensor::new("BFloat16Storage", shape, vec![0; 2 * count as usize])
}

/// Rank 1's final norm with this weight.
fn with_weight(weight: Py) -> String {
    deepspeed(|path| {
        let bias = Py::Tensor(bf16(&[64]));
        replace(path, LAST, [("weight", weight), ("bias", bias)]);
    })
}

#[test]
fn folders_of_a_checkpoint_must_be_whole() {
    let refusals = [
        ("a rank of a layer", deepspeed(|path| remove(path, LAST))),
        (
            "a layer",
            deepspeed(|path| {
                remove(path, "layer_04-model_00-model_states.pt");
                remove(path, "layer_04-model_01-model_states.pt");
            }),
        ),
        (
            "a layer in between",
            deepspeed(|path| {
                for rank in ["00", "01"] {
                    let name = |layer| format!("layer_{layer}-model_{rank}-model_states.pt");
                    fs::rename(path.join(name("04")), path.join(name("05"))).unwrap();
                }
            }),
        ),
        (
            "the embeddings",
            deepspeed(|path| {
                remove(path, "layer_01-model_00-model_states.pt");
                remove(path, "layer_01-model_01-model_states.pt");
            }),
        ),
        (
            "the arguments",
            deepspeed(|path| remove(path, "mp_rank_00_model_states.pt")),
        ),
        (
            "a rank of Megatron-LM",
            core("torch_fp32_tp2", |path| {
                fs::remove_dir_all(path.join("mp_rank_00")).unwrap();
            }),
        ),
        (
            "a rank's file",
            core("torch_fp32_tp2", |path| {
                remove(path, "mp_rank_01/model_optim_rng.pt")
            }),
        ),
        (
            "a rank of four numbers",
            core("torch_fp32_tp2", |path| {
                fs::rename(path.join("mp_rank_01"), path.join("mp_rank_01_000_000_000")).unwrap();
            }),
        ),
        (
            "a rank far away",
            core("torch_fp32_tp2", |path| {
                fs::rename(path.join("mp_rank_01"), path.join("mp_rank_4000000000")).unwrap();
            }),
        ),
        (
            "a file of chunks",
            core("torch_dist", |path| remove(path, "__0_1.distcp")),
        ),
        (
            "the folder that the tracker names",
            damaged("bloom_bf16_tp2/checkpoint", |path| {
                fs::write(path.join("latest"), "global_step2").unwrap();
            }),
        ),
        (
            "a tracker that leads elsewhere",
            damaged("bloom_bf16_tp2/checkpoint", |path| {
                fs::write(path.join("latest"), "../../etc").unwrap();
            }),
        ),
        (
            "everything",
            deepspeed(|path| fs::remove_dir_all(path).unwrap()),
        ),
    ];
    insta::assert_snapshot!("folders", listing(&refusals));
}

#[test]
fn ranks_must_have_the_same_tensors() {
    let weight = || Py::Tensor(bf16(&[64]));
    let refusals = [
        (
            "other keys",
            deepspeed(|path| replace(path, LAST, [("weight", weight()), ("wait", weight())])),
        ),
        (
            "another shape of a replica",
            with_weight(Py::Tensor(bf16(&[32]))),
        ),
        (
            "another type of a replica",
            with_weight(Py::Tensor(Tensor::counting(&[64], 0.0))),
        ),
        (
            "another shape of a shard",
            deepspeed(|path| {
                let name = "layer_01-model_01-model_states.pt";
                let embedding = Py::Tensor(bf16(&[256, 32]));
                replace(
                    path,
                    name,
                    [
                        ("word_embeddings.weight", embedding),
                        ("word_embeddings.norm.weight", weight()),
                        ("word_embeddings.norm.bias", weight()),
                    ],
                );
            }),
        ),
        (
            "a tensor that no BLOOM has",
            deepspeed(|path| {
                for rank in ["00", "01"] {
                    let state = [
                        ("weight", weight()),
                        ("bias", weight()),
                        ("extra", weight()),
                    ];
                    replace(
                        path,
                        &format!("layer_06-model_{rank}-model_states.pt"),
                        state,
                    );
                }
            }),
        ),
    ];
    insta::assert_snapshot!("ranks", listing(&refusals));
}

#[test]
fn tensors_must_lie_in_their_files() {
    let good = bf16(&[64]);
    let with = |change: fn(&mut Tensor)| {
        let mut tensor = good.clone();
        change(&mut tensor);
        with_weight(Py::Tensor(tensor))
    };
    let refusals = [
        ("an offset outside", with(|t| t.offset = 1)),
        ("a negative offset", with(|t| t.offset = -1)),
        ("a stride outside", with(|t| t.strides = vec![2])),
        (
            "strides that overflow",
            with(|t| {
                t.shape = vec![2, 32];
                t.strides = vec![i64::MAX, i64::MAX];
            }),
        ),
        (
            "a storage longer than its member",
            with(|t| t.elements = 1 << 40),
        ),
        (
            "a member shorter than its storage",
            with(|t| t.data.truncate(100)),
        ),
        (
            "more elements than a file can have",
            with(|t| {
                t.shape = vec![1 << 40];
                t.strides = vec![0];
            }),
        ),
        (
            "sizes that overflow",
            with(|t| {
                t.shape = vec![1 << 40, 1 << 40];
                t.strides = vec![0, 0];
            }),
        ),
        ("fewer strides than sizes", with(|t| t.strides = Vec::new())),
        ("another type", with(|t| t.storage = "ComplexFloatStorage")),
        (
            "integers",
            with(|t| {
                t.storage = "ShortStorage";
            }),
        ),
        ("a quantised type", with(|t| t.storage = "QInt8Storage")),
    ];
    insta::assert_snapshot!("tensors", listing(&refusals));
}

#[test]
fn nothing_in_a_pickle_is_run() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let command = text(&format!("touch {}", trace.display()));
    let calls = [
        "posix system",
        "os system",
        "builtins eval",
        "subprocess Popen",
    ];
    for call in calls {
        let call = Py::Call(call, vec![command.clone()]);
        let error = with_weight(call.clone());
        assert!(error.contains("weight"), "{error}");
        // In place of the arguments, and of everything.
        let error =
            deepspeed(|path| replace(path, "mp_rank_00_model_states.pt", [("args", call.clone())]));
        assert!(error.contains("hidden_size"), "{error}");
        deepspeed(|path| fs::write(path.join(LAST), file(&call)).unwrap());
    }
    assert!(!trace.exists());
}

#[test]
fn bombs_cost_no_more_than_their_bytes() {
    let raw = |bytes: Vec<u8>| with_weight(Py::Raw(bytes));
    let mut memo = b"]q\0".to_vec();
    for level in 1..=50 {
        memo.extend(b"](");
        memo.extend([b'h', level - 1].repeat(100));
        memo.extend([b'e', b'q', level]);
    }
    let nesting = [b"(".repeat(1 << 20), b"t".repeat(1 << 20)].concat();
    let mut long = vec![0x8b];
    long.extend((1_u32 << 20).to_le_bytes());
    long.extend(vec![0x7f; 1 << 20]);
    let refusals = [
        ("a memo of 100^50 leaves", raw(memo)),
        ("a million tuples in each other", raw(nesting)),
        ("an integer of a million bytes", raw(long)),
        ("an integer of 2 GiB", raw(b"\x8b\xff\xff\xff\x7f".to_vec())),
        (
            "a string of 2^63 bytes",
            raw(b"\x8d\0\0\0\0\0\0\0\x80".to_vec()),
        ),
        ("bytes of 4 GiB", raw(b"B\xff\xff\xff\xff".to_vec())),
        ("a list that holds itself", raw(b"]q\x01h\x01a".to_vec())),
        (
            "a place in the memo far away",
            raw(b"Nr\xff\xff\xff\xff".to_vec()),
        ),
    ];
    insta::assert_snapshot!("bombs", listing(&refusals));
}

#[test]
fn containers_must_be_torchs() {
    let pickle = |members: &[(&str, &[u8])]| {
        let members = members
            .iter()
            .map(|(name, data)| ((*name).to_owned(), data.to_vec()));
        zip(&members.collect::<Vec<_>>())
    };
    let state = dict([("weight".to_owned(), Py::Tensor(bf16(&[64])))]);
    let good = file(&state);
    let write = |bytes: &[u8]| deepspeed(|path| fs::write(path.join(LAST), bytes).unwrap());
    let mut deflated = good.clone();
    // The method of the first member, in its local header and in the directory.
    let directory = deflated
        .windows(4)
        .position(|w| w == b"PK\x01\x02")
        .unwrap();
    deflated[8] = 8;
    deflated[directory + 10] = 8;
    let mut encrypted = good.clone();
    encrypted[6] |= 1;
    let renamed = {
        let mut bytes = good.clone();
        bytes[30] = b'b';
        bytes
    };
    let empty = torch::pickle(&Py::None).0;
    let old = legacy(&state, 2);
    let refusals = [
        ("nothing", write(b"")),
        (
            "text",
            write(b"version https://git-lfs.github.com/spec/v1\n"),
        ),
        ("a bare pickle", write(&torch::pickle(&state).0)),
        ("half a zip", write(&good[..good.len() / 2])),
        (
            "a zip without its last byte",
            write(&good[..good.len() - 1]),
        ),
        ("a deflated member", write(&deflated)),
        ("an encrypted member", write(&encrypted)),
        ("two names of a member", write(&renamed)),
        ("no pickle", write(&pickle(&[("archive/version", b"3")]))),
        (
            "two pickles",
            write(&pickle(&[("a/data.pkl", &empty), ("b/data.pkl", &empty)])),
        ),
        (
            "a big-endian file",
            write(&pickle(&[("a/data.pkl", &empty), ("a/byteorder", b"big")])),
        ),
        (
            "a storage twice",
            write(&pickle(&[
                ("a/data.pkl", &empty),
                ("a/data/0", b""),
                ("a/data/0", b""),
            ])),
        ),
        ("half a legacy file", write(&old[..old.len() - 10])),
        ("the start of a legacy file", write(&old[..20])),
    ];
    insta::assert_snapshot!("containers", listing(&refusals));
}

#[test]
fn a_file_cut_anywhere_is_refused_or_read() {
    let state = dict([("weight".to_owned(), Py::Tensor(bf16(&[8])))]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pt");
    let read = |bytes: &[u8]| -> Result<()> {
        fs::write(&path, bytes).unwrap();
        let file = TorchFile::open(&path)?;
        let record = file.root().get("weight").and_then(TensorRecord::from_node);
        file.strided("weight", &record.expect("a tensor")).map(drop)
    };
    for whole in [file(&state), legacy(&state, 2)] {
        assert!(read(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(
                read(&whole[..length]).is_err(),
                "cut to {length} of {}",
                whole.len()
            );
        }
    }
}

/// `.metadata` of one tensor in two chunks; what a change makes of it.
struct Metadata {
    size: Vec<i64>,
    chunks: Vec<(Vec<i64>, Vec<i64>)>,
    /// Place in the tensor, file, offset and length.
    storage: Vec<(Vec<i64>, String, i64, i64)>,
    /// The item with what is not in shards, in place of `common.pt`: offset and length.
    common: Option<(i64, i64)>,
    /// How many stacks of layers are of this tensor's size besides.
    stacks: usize,
}

fn sizes(sizes: &[i64]) -> Py {
    let sizes = sizes.iter().map(|size| Py::Int(*size)).collect();
    Py::Call("torch Size", vec![Py::Tuple(sizes)])
}

impl Metadata {
    const NAME: &str = "embedding.word_embeddings.weight";
    const COMMON: &str = "common_state/shard_0_1";

    fn write(&self, path: &Path) {
        let object = |class, fields: Vec<(&str, Py)>| {
            let fields = fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value));
            Py::Object(class, fields.collect())
        };
        let chunks = self.chunks.iter().map(|(at, extent)| {
            let fields = vec![("offsets", sizes(at)), ("sizes", sizes(extent))];
            object(
                "torch.distributed.checkpoint.metadata ChunkStorageMetadata",
                fields,
            )
        });
        let dtype = vec![("dtype", Py::Global("torch float32"))];
        let tensor = vec![
            (
                "properties",
                object(
                    "torch.distributed.checkpoint.metadata TensorProperties",
                    dtype,
                ),
            ),
            ("size", sizes(&self.size)),
            ("chunks", Py::Tuple(chunks.collect())),
        ];
        let tensor = object(
            "torch.distributed.checkpoint.metadata TensorStorageMetadata",
            tensor,
        );
        let common = self.common.map(|(offset, length)| {
            (
                Self::COMMON,
                Py::None,
                "__0_0.distcp".to_owned(),
                offset,
                length,
            )
        });
        let stored = self.storage.iter().map(|(at, file, offset, length)| {
            (Self::NAME, sizes(at), file.clone(), *offset, *length)
        });
        let storage = stored
            .chain(common)
            .map(|(name, at, file, offset, length)| {
                let index = vec![("fqn", text(name)), ("offset", at)];
                let info = vec![
                    ("relative_path", text(&file)),
                    ("offset", Py::Int(offset)),
                    ("length", Py::Int(length)),
                ];
                (
                    object("torch.distributed.checkpoint.metadata MetadataIndex", index),
                    object("torch.distributed.checkpoint.filesystem _StorageInfo", info),
                )
            });
        let metadata = vec![
            (
                "state_dict_metadata",
                dict(
                    (0..self.stacks)
                        .map(|stack| {
                            (
                                format!("decoder.layers.stack_{stack}.weight"),
                                tensor.clone(),
                            )
                        })
                        .chain([(Self::NAME.to_owned(), tensor.clone())]),
                ),
            ),
            ("storage_data", Py::Dict(storage.collect())),
        ];
        let metadata = object("torch.distributed.checkpoint.metadata Metadata", metadata);
        fs::write(path.join(".metadata"), torch::pickle(&metadata).0).unwrap();
    }
}

#[test]
fn metadata_is_checked_against_the_chunks() {
    let part = file(&Py::Tensor(Tensor::counting(&[2, 3], 0.0)));
    let length = part.len() as i64;
    let try_with = |change: &dyn Fn(&mut Metadata)| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("__0_0.distcp"),
            [part.clone(), part.clone()].concat(),
        )
        .unwrap();
        let stored = |row, offset| (vec![row, 0], "__0_0.distcp".to_owned(), offset, length);
        let mut metadata = Metadata {
            size: vec![4, 3],
            chunks: vec![(vec![0, 0], vec![2, 3]), (vec![2, 0], vec![2, 3])],
            storage: vec![stored(0, 0), stored(2, length)],
            common: None,
            stacks: 0,
        };
        change(&mut metadata);
        metadata.write(folder.path());
        let joined = MegatronCheckpoint::open(folder.path(), &[])
            .and_then(|checkpoint| checkpoint.joined(Metadata::NAME, Partition::Axis(0)));
        match joined {
            Ok(joined) => format!("{:?}", joined.tiled.shape()),
            Err(error) => error
                .to_string()
                .replace(&folder.path().display().to_string(), "DIR"),
        }
    };
    type Change = fn(&mut Metadata);
    let changes: [(&'static str, Change); 16] = [
        ("as it is", |_| {}),
        ("a file elsewhere", |m| {
            m.storage[0].1 = "../__0_0.distcp".into()
        }),
        ("a hidden file", |m| m.storage[0].1 = ".metadata".into()),
        ("a part outside the file", |m| m.storage[1].2 += 1),
        ("a negative offset", |m| m.storage[1].2 = -1),
        ("an offset that overflows", |m| m.storage[1].2 = i64::MAX),
        ("a chunk without a place", |m| drop(m.storage.pop())),
        ("a chunk missing", |m| drop(m.chunks.pop())),
        ("a chunk twice", |m| m.chunks[1] = m.chunks[0].clone()),
        ("a chunk of another shape", |m| m.chunks[1].1 = vec![2, 2]),
        ("a chunk outside the tensor", |m| m.size = vec![3, 3]),
        ("a tensor larger than its chunks", |m| {
            m.size = vec![1 << 40, 1 << 40]
        }),
        ("chunks with another number of axes", |m| {
            m.chunks[1] = (vec![2], vec![2])
        }),
        ("one part of a file thousands of times", |m| {
            let (_, file, offset, length) = m.storage[0].clone();
            let again = (10..5010).map(|row| (vec![row, 0], file.clone(), offset, length));
            m.storage.extend(again);
        }),
        ("a tensor of a thousand axes", |m| m.size = vec![1; 1000]),
        ("stacks of ten million layers in all", |m| {
            (m.size, m.stacks) = (vec![10_000], 1000);
            (m.chunks, m.storage) = (Vec::new(), Vec::new());
        }),
    ];
    let results = changes.map(|(name, change)| (name, try_with(&change)));
    insta::assert_snapshot!("metadata", listing(&results));
}

/// megatron-core 0.19 writes no `common.pt`: what is not in shards is an item, a list of one state
/// like every object that it shards.
#[test]
fn arguments_may_lie_among_the_chunks() {
    let args = Py::Object(
        "argparse Namespace",
        vec![("num_layers".to_owned(), Py::Int(3))],
    );
    let state = dict([
        ("args".to_owned(), args),
        ("iteration".to_owned(), Py::Int(1)),
    ]);
    for state in [Py::List(vec![state.clone()]), state] {
        let folder = tempfile::tempdir().unwrap();
        let part = file(&Py::Tensor(Tensor::counting(&[2, 3], 0.0)));
        let common = file(&state);
        let (offset, length) = (part.len() as i64, common.len() as i64);
        fs::write(folder.path().join("__0_0.distcp"), [part, common].concat()).unwrap();
        let metadata = Metadata {
            size: vec![2, 3],
            chunks: vec![(vec![0, 0], vec![2, 3])],
            storage: vec![(vec![0, 0], "__0_0.distcp".to_owned(), 0, offset)],
            common: Some((offset, length)),
            stacks: 0,
        };
        metadata.write(folder.path());
        let checkpoint = MegatronCheckpoint::open(folder.path(), &[]).unwrap();
        assert_eq!(checkpoint.args().size("num_layers").unwrap(), 3);
    }
}

#[test]
fn arguments_must_be_those_of_the_architecture() {
    let damaged_by = |others: &[(&'static str, Py)]| {
        deepspeed(|path| {
            let mut args = bloom_args(64, 8, 2);
            for (name, value) in others {
                args.retain(|(key, _)| key != name);
                args.push(((*name).to_owned(), value.clone()));
            }
            let args = Py::Object("argparse Namespace", args);
            replace(path, "mp_rank_00_model_states.pt", [("args", args)]);
        })
    };
    let with = |name: &'static str, value: Py| damaged_by(&[(name, value)]);
    let refusals = [
        ("none", with("num_attention_heads", Py::None)),
        ("a negative size", with("hidden_size", Py::Int(-64))),
        (
            "a size beyond all bounds",
            with("hidden_size", Py::Int(i64::MAX)),
        ),
        ("a text", with("num_layers", text("two"))),
        ("too many layers", with("num_layers", Py::Int(1 << 27))),
        ("fewer layers", with("num_layers", Py::Int(1))),
        ("more layers", with("num_layers", Py::Int(3))),
        ("another width", with("hidden_size", Py::Int(128))),
        ("no number", with("layernorm_epsilon", Py::Float(f64::NAN))),
        (
            "an option of Megatron's alone",
            with("fp32_residual_connection", Py::Bool(true)),
        ),
        (
            "a window",
            with("window_size", Py::Tuple(vec![Py::Int(4), Py::Int(0)])),
        ),
        (
            "of nobody's, and a gate",
            damaged_by(&[
                ("nobody_has_heard_of_it", Py::Int(0)),
                ("glu_activation", text("geglu")),
            ]),
        ),
    ];
    insta::assert_snapshot!("arguments", listing(&refusals));
}

/// A full disk, played by a limit on the size of files.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let limited = format!(
        "trap '' XFSZ; ulimit -f 100; exec {} convert {} -o model",
        env!("CARGO_BIN_EXE_parity"),
        goldens().join("bloom_bf16_tp2/checkpoint").display(),
    );
    let run = std::process::Command::new("sh")
        .args(["-c", &limited])
        .current_dir(folder.path())
        .output()
        .expect("sh");
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(2), "{error}");
    assert!(error.contains("model.safetensors: cannot write"), "{error}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing left");
}

#[test]
fn an_output_that_holds_something_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = goldens().join("bloom_bf16_tp2/checkpoint");
    let model = MegatronCheckpoint::open(&checkpoint, &[])
        .and_then(|checkpoint| Converted::new(checkpoint, None, None))
        .unwrap();
    let options = Options {
        dtype: None,
        max_shard_size: ByteSize(1 << 20),
        force: false,
        verify: false,
    };
    let refused = |output: &Path| {
        let error = convert(&model, output, &options, &|_| {}).expect_err("refused");
        error
            .to_string()
            .replace(&folder.path().display().to_string(), "DIR")
    };
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("thesis.txt"), "years of work").unwrap();
    insta::assert_snapshot!(refused(&full), @"DIR/full: expected a new or empty folder, found one with files in it; name another, or give --force to replace the model in it");
    insta::assert_snapshot!(refused(&full.join("thesis.txt")), @"DIR/full/thesis.txt: expected a folder to write, found a file");
    insta::assert_snapshot!(refused(Path::new("/")), @"/: expected a folder to write, found a root");
    assert_eq!(
        fs::read_to_string(full.join("thesis.txt")).unwrap(),
        "years of work"
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

fn listing(refusals: &[(&str, String)]) -> String {
    let lines = refusals
        .iter()
        .map(|(what, why)| format!("{what}\n    {why}\n"));
    lines.collect()
}
