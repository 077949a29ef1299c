//! Whatever is wrong with an input ends in one clear error and exit code 2, with nothing written.

use crate::common::{self, Copy, goldens};
use std::fmt::Write as _;
use std::process::Command;

/// Damages a copy and records what `parity diff` says about it.
fn refusal(name: &str, text: &mut String, args: &[&str], damage: impl FnOnce(&Copy)) {
    let copy = Copy::of("bloom_bf16_tp2");
    damage(&copy);
    let golden = copy.golden();
    let mut command = Command::new(env!("CARGO_BIN_EXE_parity"));
    command.current_dir(copy.root()).arg("diff");
    if !args
        .iter()
        .any(|arg| arg.ends_with(".toml") || *arg == "--reference")
    {
        command
            .arg("--golden")
            .arg(&golden)
            .arg("--model")
            .arg(copy.model());
    }
    let before = listing(&copy);
    let output = command.args(args).output().expect("parity runs");
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    let root = copy.root().display().to_string();
    assert_eq!(output.status.code(), Some(2), "{name}: {error}");
    assert!(output.stdout.is_empty(), "{name}");
    assert_eq!(before, listing(&copy), "{name}");
    let _ = writeln!(
        text,
        "{name}\n  {}",
        error
            .trim_end()
            .replace(&root, "ROOT")
            .replace('\n', "\n  ")
    );
}

fn listing(copy: &Copy) -> Vec<String> {
    let mut names: Vec<String> = [copy.root(), &copy.golden(), &copy.model()]
        .iter()
        .flat_map(|folder| folder.read_dir().expect("a folder"))
        .map(|entry| entry.expect("an entry").path().display().to_string())
        .collect();
    names.sort();
    names
}

/// Replaces text in an array's header; its padding gives or takes the difference in length.
fn header(bytes: &mut Vec<u8>, from: &str, to: &str) {
    let place = bytes.windows(from.len()).position(|w| w == from.as_bytes());
    let place = place.expect("in the header");
    bytes.splice(place..place + from.len(), to.bytes());
    let newline = bytes
        .iter()
        .position(|b| *b == b'\n')
        .expect("the header's end");
    match to.len().checked_sub(from.len()) {
        Some(more) => drop(bytes.drain(newline - more..newline)),
        None => drop(bytes.splice(newline..newline, vec![b' '; from.len() - to.len()])),
    }
}

const NORM: &str = "h.0.input_layernorm.npy";

#[test]
fn damaged_arrays() {
    let mut text = String::new();
    let mut array = |name: &str, change: fn(&mut Vec<u8>)| {
        refusal(name, &mut text, &[], |copy| copy.edit(NORM, true, change));
    };
    array("truncated data", |bytes| bytes.truncate(1000));
    array("truncated header", |bytes| bytes.truncate(60));
    array("empty file", Vec::clear);
    array("trailing bytes", |bytes| bytes.push(0));
    array("no npy file", |bytes| bytes[0] = 0);
    array("unknown version", |bytes| bytes[6] = 9);
    array("endless header", |bytes| {
        bytes[8..10].copy_from_slice(&[255, 255])
    });
    array("more than the file holds", |bytes| {
        header(bytes, "20, 1, 64", "20, 9, 64")
    });
    array("overflowing shape", |bytes| {
        header(bytes, "20, 1, 64", "4294967296, 4294967296, 4");
    });
    array("overflow hidden by a zero", |bytes| {
        header(bytes, "20, 1, 64", "4294967296, 4294967296, 0");
    });
    array("negative shape", |bytes| {
        header(bytes, "20, 1, 64", "-20, 1, 64")
    });
    array("deep nesting", |bytes| {
        header(bytes, "(20, 1, 64)", "((((((((20))))))))")
    });
    array("object dtype", |bytes| header(bytes, "<V2", "|O"));
    array("unknown dtype", |bytes| header(bytes, "<V2", "<c8"));
    array("huge void dtype", |bytes| {
        header(bytes, "<V2", "|V9223372036854775807")
    });
    array("empty void dtype", |bytes| header(bytes, "<V2", "|V0"));
    array("other shape", |bytes| {
        header(bytes, "20, 1, 64", "10, 2, 64")
    });
    array("other number of axes", |bytes| {
        header(bytes, "20, 1, 64", "1280")
    });
    array("NaN in the reference", |bytes| {
        bytes[128..130].copy_from_slice(&[0xc0, 0x7f])
    });
    insta::assert_snapshot!(text);
}

#[test]
fn damaged_goldens() {
    let mut text = String::new();
    let mut golden = |name: &str, damage: &dyn Fn(&Copy)| refusal(name, &mut text, &[], damage);
    golden("wrong sha256", &|copy| {
        copy.edit(NORM, false, |bytes| bytes[200] ^= 1)
    });
    golden("missing stage file", &|copy| {
        std::fs::remove_file(copy.golden().join(NORM)).expect("removed");
    });
    golden("a pipe in place of a file", &|copy| {
        let path = copy.golden().join(NORM);
        std::fs::remove_file(&path).expect("removed");
        assert!(
            Command::new("mkfifo")
                .arg(path)
                .status()
                .expect("mkfifo")
                .success()
        );
    });
    let edits: [(&str, &str, &str); 9] = [
        ("no JSON", "{", "["),
        (
            "newer version",
            "\"parity_golden\": 1",
            "\"parity_golden\": 3",
        ),
        (
            "unknown key",
            "\"provenance\"",
            "\"origin\": 1, \"provenance\"",
        ),
        (
            "file outside",
            "\"h.0.input_layernorm.npy\"",
            "\"../../etc/passwd\"",
        ),
        ("no digest", "\"sha256\": \"", "\"sha256\": \"x"),
        (
            "unknown dtype",
            "\"dtype\": \"bf16\",\n  \"tokens\"",
            "\"dtype\": \"fp8\",\n  \"tokens\"",
        ),
        (
            "no ranks",
            "\"tensor_parallel\": 2,\n    \"query",
            "\"tensor_parallel\": 0,\n    \"query",
        ),
        (
            "endless layers",
            "\"n_layer\": 2,\n    \"n_head\"",
            "\"n_layer\": 99999999,\n    \"n_head\"",
        ),
        (
            "a stage twice",
            "\"stage\": \"h.0.input_layernorm\"",
            "\"stage\": \"word_embeddings\"",
        ),
    ];
    for (name, from, to) in edits {
        golden(name, &|copy| copy.replace("golden.json", from, to));
    }
    golden("more ranks than divide the model", &|copy| {
        copy.replace(
            "golden.json",
            "\"tensor_parallel\": 2,\n    \"query",
            "\"tensor_parallel\": 3,\n    \"query",
        );
    });
    golden("endless heads", &|copy| {
        copy.replace(
            "golden.json",
            "\"n_head\": 8,\n    \"vocab",
            "\"n_head\": 4294967295,\n    \"vocab",
        );
    });
    golden("shards that join along no axis", &|copy| {
        copy.replace("golden.json", "\"concat\": 2", "\"concat\": 7")
    });
    golden("shards that join to another shape", &|copy| {
        copy.replace("golden.json", "\"concat\": 2", "\"concat\": 0");
    });
    golden("a layout of other axes", &|copy| {
        copy.replace("golden.json", "\"layout\": \"sbh\"", "\"layout\": \"bnss\"")
    });
    golden("nested JSON", &|copy| {
        std::fs::write(copy.golden().join("golden.json"), "[".repeat(100_000)).expect("written");
    });
    golden("another type than the manifest says", &|copy| {
        copy.replace(
            "golden.json",
            "\"dtype\": \"bf16\",\n      \"layout\": \"bsh\"",
            "\"dtype\": \"fp32\",\n      \"layout\": \"bsh\"",
        );
    });
    golden("token out of range", &|copy| {
        copy.edit("tokens.npy", true, |bytes| {
            bytes[128..136].copy_from_slice(&512_i64.to_le_bytes())
        });
    });
    golden("negative token", &|copy| {
        copy.edit("tokens.npy", true, |bytes| {
            bytes[136..144].copy_from_slice(&(-1_i64).to_le_bytes())
        });
    });
    insta::assert_snapshot!(text);
}

/// Writes the copy's manifest as format 2.
fn as_format_2(copy: &Copy) {
    let golden = parity::golden::Golden::open(copy.golden()).expect("a golden");
    std::fs::write(
        copy.golden().join("golden.json"),
        golden.manifest().to_json(),
    )
    .expect("written");
}

/// Adds an input of the run, of one row of tokens, to a manifest of format 2.
fn input(copy: &Copy, key: &str, shape: &[usize], values: Vec<i64>) {
    use parity::tensor::{Tensor, npy};
    let path = copy.golden().join("input.npy");
    npy::write(&path, &Tensor::from_vec(shape, values).expect("an array")).expect("written");
    let digest = parity::golden::Algorithm::Blake3.digest(&std::fs::read(path).expect("read"));
    let entry = format!("\"{key}\": {{\"file\": \"input.npy\", \"digest\": \"{digest}\"}},\n  ");
    copy.replace("golden.json", "\"stages\":", &(entry + "\"stages\":"));
}

#[test]
fn damaged_goldens_of_format_2() {
    let mut text = String::new();
    let mut golden = |name: &str, damage: &dyn Fn(&Copy)| {
        refusal(name, &mut text, &[], |copy| {
            as_format_2(copy);
            damage(copy);
        });
    };
    golden("a changed file", &|copy| {
        copy.edit(NORM, false, |bytes| bytes[200] ^= 1)
    });
    let edits: [(&str, &str, &str); 8] = [
        (
            "newer version",
            "\"parity_golden\": 2",
            "\"parity_golden\": 3",
        ),
        (
            "an older version than its keys",
            "\"parity_golden\": 2",
            "\"parity_golden\": 1",
        ),
        ("unknown algorithm", "\"sha256:", "\"crc32:"),
        ("the digest of another algorithm", "\"sha256:", "\"blake3:"),
        ("no digest", "\"sha256:", "\"sha256:x"),
        (
            "unknown key",
            "\"provenance\"",
            "\"origin\": 1, \"provenance\"",
        ),
        (
            "unknown join",
            "\"join\": \"replicated\"",
            "\"join\": {\"sum\": 2}",
        ),
        ("a stage without values", "\"full\": {", "\"later\": {"),
    ];
    for (name, from, to) in edits {
        golden(name, &|copy| copy.replace("golden.json", from, to));
    }
    let mut inputs = |name: &str, key: &str, shape: &[usize], values: &[i64]| {
        golden(name, &|copy| input(copy, key, shape, values.to_vec()));
    };
    let mut padded = [1; 20];
    padded[..3].fill(0);
    inputs("padding only", "attention_mask", &[1, 20], &[0; 20]);
    inputs(
        "padding before a sequence in Megatron",
        "attention_mask",
        &[1, 20],
        &padded,
    );
    inputs("a mask of another shape", "attention_mask", &[20], &[1; 20]);
    inputs(
        "a mask of biases",
        "attention_mask",
        &[1, 20],
        &[-10_000; 20],
    );
    inputs("negative positions", "positions", &[1, 20], &[-1; 20]);
    insta::assert_snapshot!(text);
}

#[test]
fn models_that_do_not_fit() {
    let mut text = String::new();
    let mut model = |name: &str, damage: &dyn Fn(&Copy)| refusal(name, &mut text, &[], damage);
    let config = |from: &'static str, to: &'static str| {
        move |copy: &Copy| copy.replace("hf/config.json", from, to)
    };
    model(
        "another size",
        &config("\"hidden_size\": 64", "\"hidden_size\": 128"),
    );
    model(
        "heads that do not divide",
        &config("\"n_head\": 8", "\"n_head\": 7"),
    );
    model("no heads", &config("\"n_head\": 8", "\"n_head\": 0"));
    model("another type", &config("\"bfloat16\"", "\"float32\""));
    model("another architecture", &|copy| {
        for file in ["config.json", "model.safetensors"] {
            let theirs = goldens().join("megatron_core_gpt2_fp32_tp1/hf").join(file);
            std::fs::copy(theirs, copy.model().join(file)).expect("a copy");
        }
    });
    model(
        "an unknown architecture",
        &config("\"bloom\"", "\"blossom\""),
    );
    model(
        "a wrongly typed setting",
        &config("\"n_layer\": 2", "\"n_layer\": \"two\""),
    );
    model(
        "slices that do not divide the width",
        &config(
            "\"pretraining_tp\": 2,\n  \"slow_but_exact\": false",
            "\"pretraining_tp\": 3,\n  \"slow_but_exact\": true",
        ),
    );
    let header = |from: &'static str, to: &'static str| {
        move |copy: &Copy| {
            let path = copy.model().join("model.safetensors");
            let mut bytes = std::fs::read(&path).expect("weights");
            let place = bytes.windows(from.len()).position(|w| w == from.as_bytes());
            let place = place.expect("in the header");
            bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
            std::fs::write(path, bytes).expect("written");
        }
    };
    model(
        "a tensor under another name",
        &header("h.1.mlp.dense_4h_to_h.bias", "h.1.mlp.dense_4h_to_h.bios"),
    );
    model(
        "a misshapen tensor",
        &header("\"shape\":[64,256]", "\"shape\":[256,64]"),
    );
    model("truncated weights", &|copy| {
        let path = copy.model().join("model.safetensors");
        let bytes = std::fs::read(&path).expect("weights");
        std::fs::write(path, &bytes[..100_000]).expect("written");
    });
    model("no weights", &|copy| {
        std::fs::remove_file(copy.model().join("model.safetensors")).expect("removed");
    });
    insta::assert_snapshot!(text);
}

#[test]
fn cases_and_arguments() {
    let mut text = String::new();
    let mut case = |name: &str, tolerance: &str| {
        refusal(name, &mut text, &["x.toml"], |copy| {
            let paths = "golden = \"golden\"\nmodel = \"golden/hf\"\n";
            std::fs::write(copy.root().join("x.toml"), format!("{paths}{tolerance}"))
                .expect("written");
        });
    };
    case("a key with a typo", "arithmetics = \"megatron\"\n");
    case(
        "a pattern that matches no stage",
        "[[tolerance]]\nstages = \"layers.*\"\nrel = 1e-6\n",
    );
    case("no bound", "[[tolerance]]\nstages = \"h.*\"\n");
    let mut arguments = |name: &str, args: &[&str]| refusal(name, &mut text, args, |_| {});
    arguments("no such case", &["y.toml"]);
    arguments(
        "an output that cannot be written",
        &["--output", "json=no/such/folder/report.json"],
    );
    arguments("an output that is a folder", &["--output", "json=golden"]);
    arguments("an unknown format", &["--output", "pdf=report.pdf"]);
    arguments("a pattern that selects nothing", &["--stages", "layers.*"]);
    arguments(
        "two dumps of which one is none",
        &["--reference", "golden", "--candidate", "golden/hf"],
    );
    insta::assert_snapshot!(text);
}

/// Every file of `tests/hostile` is refused, at once.
#[test]
fn hostile_files() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let mut names: Vec<_> = folder
        .read_dir()
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    let mut text = String::new();
    for name in names {
        let started = std::time::Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_parity"));
        let output = command
            .current_dir(&folder)
            .arg("inspect")
            .arg(&name)
            .output();
        let output = output.expect("parity runs");
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{name:?}: {error}");
        // Exponential parsing would take minutes: the bound is on hanging, not on speed.
        assert!(started.elapsed().as_secs() < 10, "{name:?}");
        text += &error;
    }
    insta::assert_snapshot!(text);
}

/// Statistics of another number of tokens, and statistics that are no numbers.
#[test]
fn damaged_statistics() {
    use parity::arch::Framework;
    use parity::golden::import;
    let dump = common::raw_dump(&common::goldens().join("bloom_bf16_tp2"));
    let mut text = String::new();
    let mut statistics = |name: &str, values: Vec<f64>| {
        refusal(name, &mut text, &["--stages", "logits"], |copy| {
            std::fs::rename(copy.golden(), copy.root().join("full")).expect("renamed");
            let source = Framework::MegatronDeepspeed;
            import(dump.path(), Some(source), &copy.golden(), true).expect("imported");
            std::fs::rename(copy.root().join("full/hf"), copy.model()).expect("renamed");
            copy.edit("logits.token_mean.npy", true, |bytes| {
                let tensor = parity::tensor::Tensor::from_vec(&[values.len()], values.clone());
                let path = copy.root().join("other.npy");
                parity::tensor::npy::write(&path, &tensor.expect("a row")).expect("written");
                *bytes = std::fs::read(&path).expect("read");
            });
        });
    };
    statistics("too few", vec![0.0; 7]);
    statistics("NaN", vec![f64::NAN; 20]);
    insta::assert_snapshot!(text);
}

/// A reader that goes away changes nothing about the verdict.
#[test]
fn a_closed_output_keeps_the_exit_code() {
    let copy = Copy::of("bloom_fp32_tp1");
    copy.replace(
        "hf/config.json",
        "\"layer_norm_epsilon\": 1e-05",
        "\"layer_norm_epsilon\": 1e-02",
    );
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_parity"))
        .args(["diff", "--golden"])
        .arg(copy.golden())
        .arg("--model")
        .arg(copy.model())
        .stdout(writer)
        .status()
        .expect("parity runs");
    assert_eq!(status.code(), Some(1));
}
