//! Converting a Megatron-DeepSpeed checkpoint of four tensor-parallel ranks, against copying its
//! bytes: wall time, and peak anonymous memory (`RssAnon`: what is not a file's pages).
//!
//! Makes a synthetic BLOOM of some GB in a temporary folder. The files are in the page cache in all
//! runs; `cp` is followed by a sync of what it wrote, as the conversion is. Writes its figures to
//! `target/convert-bench.json` for `scripts/benchmarks.py`.
//!
//! `cargo bench --bench convert -- --keep DIR` makes the checkpoint in `DIR` and leaves it there.
//! With `PARITY_TRANSFORMERS_SCRIPT="python3 …/convert_bloom_original_checkpoint_to_pytorch.py"`,
//! the script that transformers had up to version 4 does the same conversion beside it.

#[path = "../tests/common/torch.rs"]
mod torch;

use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use torch::{Py, Tensor, dict, file};

const HIDDEN: i64 = 4096;
const LAYERS: i64 = 6;
const HEADS: i64 = 32;
const TOKENS: i64 = 65_536;
const RANKS: i64 = 4;
const ROUNDS: usize = 5;

/// Values like weights: bf16 of about 0.02, all different from place to place.
fn tensor(shape: &[i64], seed: u32) -> Py {
    let count: i64 = shape.iter().product();
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut data = Vec::with_capacity(2 * count as usize);
    for _ in 0..count {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Sign, exponents from 2^-9 to 2^-6, any mantissa.
        let bits = (state >> 16) as u16 & 0x81ff | 0x3b00;
        data.extend(bits.to_le_bytes());
    }
    Py::Tensor(Tensor::new("BFloat16Storage", shape, data))
}

fn make(folder: &Path) -> u64 {
    let (h, share) = (HIDDEN, HIDDEN / RANKS);
    let folder = folder.join("global_step1");
    fs::create_dir_all(&folder).expect("a folder");
    let embeddings: Vec<(&str, Vec<i64>)> = vec![
        ("word_embeddings.weight", vec![TOKENS / RANKS, h]),
        ("word_embeddings.norm.weight", vec![h]),
        ("word_embeddings.norm.bias", vec![h]),
    ];
    let block = vec![
        ("input_layernorm.weight", vec![h]),
        ("input_layernorm.bias", vec![h]),
        ("self_attention.query_key_value.weight", vec![3 * share, h]),
        ("self_attention.query_key_value.bias", vec![3 * share]),
        ("self_attention.dense.weight", vec![h, share]),
        ("self_attention.dense.bias", vec![h]),
        ("post_attention_layernorm.weight", vec![h]),
        ("post_attention_layernorm.bias", vec![h]),
        ("mlp.dense_h_to_4h.weight", vec![4 * share, h]),
        ("mlp.dense_h_to_4h.bias", vec![4 * share]),
        ("mlp.dense_4h_to_h.weight", vec![h, 4 * share]),
        ("mlp.dense_4h_to_h.bias", vec![h]),
    ];
    let last = vec![("weight", vec![h]), ("bias", vec![h])];
    let mut layers = vec![(1, embeddings)];
    layers.extend((0..LAYERS).map(|layer| (layer + 3, block.clone())));
    layers.push((LAYERS + 4, last));
    let mut bytes = 0;
    for (layer, tensors) in layers {
        for rank in 0..RANKS {
            let entries = tensors.iter().enumerate().map(|(index, (name, shape))| {
                // Norms, and biases added after the sum over ranks, are replicated.
                let replicated = shape.len() == 1 && shape[0] == h;
                let rank = if replicated { 0 } else { rank };
                let seed = (layer * 1000 + index as i64 * 10 + rank) as u32;
                ((*name).to_owned(), tensor(shape, seed))
            });
            let whole = file(&dict(entries));
            bytes += whole.len() as u64;
            let name = format!("layer_{layer:02}-model_{rank:02}-model_states.pt");
            fs::write(folder.join(name), whole).expect("written");
        }
    }
    let args = [
        ("hidden_size", HIDDEN),
        ("num_attention_heads", HEADS),
        ("num_layers", LAYERS),
    ];
    let mut args: Vec<_> = args
        .map(|(name, value)| (name.to_owned(), Py::Int(value)))
        .into();
    args.extend([
        ("layernorm_epsilon".into(), Py::Float(1e-5)),
        ("position_embedding_type".into(), Py::Str("alibi".into())),
        ("bias_gelu_fusion".into(), Py::Bool(true)),
    ]);
    let state = dict([("args".to_owned(), Py::Object("argparse Namespace", args))]);
    fs::write(folder.join("mp_rank_00_model_states.pt"), file(&state)).expect("written");
    bytes
}

/// Peak of `RssAnon` in MB, by looking every few milliseconds.
fn peak_anonymous(child: &mut Child) -> f64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    while child.try_wait().expect("a child").is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        peak = peak.max(kib.unwrap_or(0.0) * 1024.0 / 1e6);
        std::thread::sleep(Duration::from_millis(5));
    }
    peak
}

/// Runs a command on `checkpoint` and removes what it wrote. Returns seconds and peak memory.
fn timed(command: &mut Command, checkpoint: &Path, output: &Path) -> (f64, f64) {
    // What earlier runs have left to be written, or pushed out of the page cache, must not slow
    // this one.
    assert!(Command::new("sync").status().expect("sync").success());
    for entry in checkpoint
        .join("global_step1")
        .read_dir()
        .expect("a folder")
    {
        let mut file = fs::File::open(entry.expect("an entry").path()).expect("a file");
        std::io::copy(&mut file, &mut std::io::sink()).expect("read");
    }
    let begun = Instant::now();
    let mut child = command.spawn().expect("started");
    let peak = peak_anonymous(&mut child);
    assert!(child.wait().expect("a child").success(), "{command:?}");
    let seconds = begun.elapsed().as_secs_f64();
    fs::remove_dir_all(output).expect("removed");
    (seconds, peak)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo test --benches` runs this, too: nothing to test.
    let args: Vec<String> = std::env::args().collect();
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let kept = args
        .iter()
        .position(|arg| arg == "--keep")
        .map(|i| PathBuf::from(&args[i + 1]));
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = kept.as_deref().unwrap_or(temporary.path());
    let checkpoint = folder.join("checkpoint");
    let bytes = make(&checkpoint);
    let (copied, converted) = (folder.join("copied"), folder.join("converted"));
    let (mut plain, mut copies, mut conversions, mut verified, mut peaks) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let copy = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&checkpoint).arg(&copied);
        timed(&mut command, &checkpoint, &copied).0
    };
    let convert = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_parity"));
        command
            .args(["convert", "--output"])
            .arg(&converted)
            .arg(&checkpoint)
            .args(more);
        command.stdout(std::process::Stdio::null());
        timed(&mut command, &checkpoint, &converted)
    };
    let config = json!({
        "model_type": "bloom", "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS,
        "vocab_size": TOKENS,
    });
    let config_path = folder.join("config.json");
    fs::write(&config_path, config.to_string()).expect("written");
    let script = std::env::var("PARITY_TRANSFORMERS_SCRIPT").ok();
    let mut scripted: Vec<(f64, f64)> = Vec::new();
    // Turn about, so that what else the machine does falls on all alike.
    for _ in 0..ROUNDS {
        plain.push(copy("cp -r \"$0\" \"$1\""));
        copies.push(copy("cp -r \"$0\" \"$1\" && sync \"$1\"/global_step1/*"));
        let (seconds, peak) = convert(&[]);
        conversions.push(seconds);
        peaks.push(peak);
        verified.push(convert(&["--verify"]).0);
        if let Some(script) = &script {
            fs::create_dir_all(&converted).expect("a folder");
            let mut words = script.split_whitespace();
            let mut command = Command::new(words.next().expect("a command"));
            command
                .args(words)
                .args(["--shard_model", "--pretraining_tp", "4"]);
            command
                .arg("--bloom_checkpoint_path")
                .arg(checkpoint.join("global_step1"));
            command.arg("--pytorch_dump_folder_path").arg(&converted);
            command.arg("--bloom_config_file").arg(&config_path);
            command.stdout(std::process::Stdio::null());
            scripted.push(timed(&mut command, &checkpoint, &converted));
        }
    }
    let mut figures = json!({
        "bytes": bytes,
        "hidden": HIDDEN,
        "layers": LAYERS,
        "ranks": RANKS,
        "largest_tensor_bytes": TOKENS * HIDDEN * 2,
        "cp_seconds": median(plain),
        "cp_and_sync_seconds": median(copies),
        "convert_seconds": median(conversions),
        "convert_and_verify_seconds": median(verified),
        "peak_anonymous_mb": peaks.iter().copied().fold(0.0, f64::max),
    });
    if !scripted.is_empty() {
        let (seconds, peaks): (Vec<f64>, Vec<f64>) = scripted.into_iter().unzip();
        figures["transformers_seconds"] = median(seconds).into();
        figures["transformers_peak_anonymous_mb"] =
            peaks.iter().copied().fold(0.0, f64::max).into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/convert-bench.json");
    fs::write(path, format!("{figures:#}\n")).expect("written");
    println!("{figures:#}");
}
