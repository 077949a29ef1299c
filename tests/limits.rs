//! What a file may cost: refused in a moment, with what was asked and what is allowed.

use crate::common::torch::{self, Py, dict};
use crate::common::{Copy, goldens};
use parity::backend::{Backend, Cpu};
use parity::case::{Pattern, parse_case_file};
use parity::plan::Arithmetic;
use parity::tensor::{Tensor, npy};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Runs parity, which has to answer soon.
fn parity(args: &[&str], set: &[(&str, &str)]) -> Output {
    let mut parity = Command::new(env!("CARGO_BIN_EXE_parity"));
    parity.args(args).envs(set.iter().copied());
    let began = Instant::now();
    let done = parity.output().expect("parity runs");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{args:?} took {:?}",
        began.elapsed()
    );
    done
}

fn refused(args: &[&str], set: &[(&str, &str)], words: &str) {
    let done = parity(args, set);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
    assert!(
        said.contains(words) && said.lines().count() == 1,
        "{args:?}: {said}"
    );
}

/// A header alone, or one before as many bytes.
fn array(shape: &str, fortran: bool, bytes: usize) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let mut text = format!("{{'descr': '<f4', 'fortran_order': {fortran}, 'shape': {shape}, }}");
    text += &" ".repeat(63 - (10 + text.len()) % 64);
    text.push('\n');
    let length = (text.len() as u16).to_le_bytes();
    [
        b"\x93NUMPY\x01\x00",
        &length[..],
        text.as_bytes(),
        &vec![0; bytes],
    ]
    .concat()
}

#[test]
fn empty_arrays_have_no_rows_that_nobody_can_hold() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.npy");
    for (shape, fortran) in [
        ("(0, 1152921504606846976)", false),
        ("(0, 9223372036854775808)", true),
        ("(0, 4611686018427387904)", true),
        ("(1099511627776, 0, 1099511627776)", false),
    ] {
        fs::write(&path, array(shape, fortran, 0)).expect("written");
        refused(&["inspect", &path.to_string_lossy()], &[], "memory");
    }
    fs::write(&path, array("(0, 1024)", false, 0)).expect("written");
    assert!(npy::read(&path, None).is_ok());
}

proptest! {
    /// Whatever a header says, memory is taken for what the file holds.
    #[test]
    fn shapes_are_held_to_the_file(extents in prop::collection::vec(any::<u64>(), 1..5), fortran: bool) {
        let shape = format!("({},)", extents.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
        let bytes = array(&shape, fortran, 16);
        let fits = extents.iter().try_fold(4_u64, |size, extent| size.checked_mul(*extent)) == Some(16);
        prop_assert_eq!(npy::from_bytes(Path::new("x.npy"), &bytes, None).is_ok(), fits);
    }
}

/// A zip of one deflated member of so many zeros after a header.
fn deflated(header: &[u8], zeros: usize) -> Vec<u8> {
    use std::io::Write;
    let data = [header, &vec![0; zeros]].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&data);
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&data).expect("deflated");
    let body = encoder.finish().expect("deflated");
    let name = b"x.npy";
    let common = [
        &[20, 0, 0, 0, 8, 0, 0, 0, 0, 0][..],
        &crc.sum().to_le_bytes(),
        &(body.len() as u32).to_le_bytes(),
        &(data.len() as u32).to_le_bytes(),
        &[name.len() as u8, 0, 0, 0],
    ]
    .concat();
    let local = [b"PK\x03\x04", &common[..], name, &body].concat();
    let central = [b"PK\x01\x02\x14\x00", &common[..], &[0; 14], name].concat();
    let (size, at) = (
        (central.len() as u32).to_le_bytes(),
        (local.len() as u32).to_le_bytes(),
    );
    let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &size[..], &at, &[0, 0]].concat();
    [local, central, end].concat()
}

/// Small files of which much becomes: deflated members, and arrays that are copied to be read.
#[test]
fn what_a_file_becomes_is_charged_before_it_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let inspected = |name: &str, bytes: &[u8], limit: &str| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        let path = path.to_string_lossy().into_owned();
        let words = ["inspect", &path, "--max-memory", limit];
        assert_eq!(parity(&["inspect", &path], &[]).status.code(), Some(0));
        refused(&words, &[], "give --max-memory, if the machine has more");
    };
    let header = array("(1048576,)", false, 0);
    inspected("x.npz", &deflated(&header, 4 << 20), "2MiB");
    let big_endian = String::from_utf8_lossy(&header[10..]).replace("<f4", ">f4");
    let swapped = [&header[..10], big_endian.as_bytes(), &vec![0; 4 << 20]].concat();
    inspected("x.npy", &swapped, "2MiB");
}

/// Scores of many tokens are more than there is memory for, however small the file of tokens is.
#[test]
fn scores_are_charged_before_they_are_computed() {
    let config = parity::checkpoint::TransformersFolder::open(goldens().join("bloom_fp32_tp1/hf"));
    let config = config.expect("a model").config().model.clone();
    let plan = config
        .plan(parity::tensor::DType::F32, &Arithmetic::default())
        .expect("a plan");
    let scores = plan
        .steps()
        .iter()
        .find(|step| step.id.as_str().ends_with("scores"));
    let scores = scores.expect("scores");
    let heads = Tensor::from_vec(&[1, 8, 1 << 17, 8], vec![0.0_f32; 8 << 20]).expect("as many");
    let error = Cpu
        .run(scores, &[&heads, &heads], &[])
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("--max-memory") && error.contains("self_attention.scores"),
        "{error}"
    );
}

#[test]
fn a_file_is_named_once_or_once_a_rank() {
    let copy = Copy::of("bloom_fp32_tp1");
    let manifest = fs::read_to_string(copy.golden().join("golden.json")).expect("a manifest");
    let start = manifest
        .find("\"files\": [")
        .or_else(|| manifest.find("\"files\":["))
        .expect("files");
    let open = start + manifest[start..].find('[').expect("a list");
    let close = open + manifest[open..].find(']').expect("its end");
    let entry = manifest[open + 1..close].to_owned();
    let many = vec![entry.as_str(); 3000].join(",");
    let text = format!("{}[{many}]{}", &manifest[..open], &manifest[close + 1..]);
    fs::write(copy.golden().join("golden.json"), text).expect("written");
    let (golden, model) = (copy.golden(), copy.model());
    let [golden, model] = [golden, model].map(|path| path.to_string_lossy().into_owned());
    let done = parity(&["diff", "--golden", &golden, "--model", &model], &[]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("found 3000"), "{said}");
}

#[test]
fn configs_and_cases_have_a_size() {
    let copy = Copy::of("bloom_fp32_tp1");
    let config = copy.model().join("config.json");
    let text = fs::read_to_string(&config).expect("a config");
    let junk = "x".repeat(17 << 20);
    fs::write(
        &config,
        text.replacen('{', &format!("{{\"junk\": \"{junk}\", "), 1),
    )
    .expect("written");
    let (golden, model) = (copy.golden(), copy.model());
    let args = [
        "diff",
        "--golden",
        &golden.to_string_lossy(),
        "--model",
        &model.to_string_lossy(),
    ];
    refused(&args, &[], "a config of at most");
    let case = format!(
        "golden = \"g\"\nmodel = \"m\"\n{}",
        "[[tolerance]]\nstages = \"h\"\nrel = 1\n".repeat(1001)
    );
    let error = parse_case_file(Path::new("x.toml"), case.as_bytes()).expect_err("refused");
    assert!(
        error.to_string().contains("at most 1000 tolerances"),
        "{error}"
    );
}

proptest! {
    /// A pattern is matched or refused, in no time, however it is nested.
    #[test]
    fn patterns_cost_little(piece in "[a{},*?\\[\\]]{1,6}", times in 1_usize..200_000) {
        let text = piece.repeat(times.min(1_000_000 / piece.len()));
        let began = Instant::now();
        let pattern = text.parse::<Pattern>();
        if let Ok(pattern) = pattern {
            pattern.matches(&"h.0.self_attention.dense".into());
        }
        prop_assert!(began.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn threads_and_an_unwritable_stderr_are_sentences() {
    let model = goldens().join("bloom_fp32_tp1");
    let model = model.to_string_lossy();
    refused(
        &["inspect", &model],
        &[("RAYON_NUM_THREADS", "100000")],
        "at most 1024 threads",
    );
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let mut parity = Command::new(env!("CARGO_BIN_EXE_parity"));
    let done = parity
        .args(["inspect", "nothing"])
        .stderr(full)
        .status()
        .expect("parity runs");
    assert_eq!(done.code(), Some(2));
}

/// One text that thousands of arguments share is not copied thousands of times.
#[test]
fn shared_texts_are_not_multiplied() {
    let folder = tempfile::tempdir().expect("a folder");
    // BINUNICODE and LONG_BINPUT once, then LONG_BINGET.
    let memo = 1_000_000_u32.to_le_bytes();
    let text = "x".repeat(4 << 20);
    let length = (text.len() as u32).to_le_bytes();
    let first = [b"X", &length[..], text.as_bytes(), b"r", &memo[..]].concat();
    let again = [b"j", &memo[..]].concat();
    let value = |number| {
        Py::Raw(if number == 0 {
            first.clone()
        } else {
            again.clone()
        })
    };
    let args = dict((0..3000).map(|number| (format!("arg_{number:04}"), value(number))));
    let state = dict([("args".to_owned(), args)]);
    let path = folder.path().join("mp_rank_00");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("model_optim_rng.pt"), torch::file(&state)).expect("written");
    let done = parity(&["inspect", &folder.path().to_string_lossy()], &[]);
    assert!(done.stdout.len() < 4 << 20);
}
