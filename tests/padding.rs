//! Rows that are padded or hold several sequences: what is of none decides nothing, and what is of one is judged
//! as ever. That correct models pass is in the cases.

use crate::common::{self, Copy, goldens};
use parity::Result;
use parity::arch::Framework;
use parity::compare::Metrics;
use parity::diff::{CaseOutcome, Options, Verdict, diff_dumps};
use parity::golden::{Golden, Imported, import};
use parity::tensor::{DType, Tensor, npy};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rows of 20 tokens, the second with 8 of padding at one side.
const LEFT: &str = "transformers_bloom_fp32_padded_left";
const RIGHT: &str = "transformers_bloom_fp32_padded_right";

fn against(golden: &Path, model: &str) -> CaseOutcome {
    common::run(&common::case(golden, goldens().join(model).join("hf")))
}

/// The file of a stage.
fn file_of(copy: &Copy, stage: &str) -> String {
    let golden = Golden::open(copy.golden()).unwrap();
    let file = golden.file_of(&stage.into());
    file.file_name().unwrap().to_string_lossy().into_owned()
}

/// Sets an element of a stage that is kept in fp32.
fn set(copy: &Copy, stage: &str, place: usize, value: f32) {
    let file = file_of(copy, stage);
    copy.edit(&file, true, |bytes| {
        let start = bytes.len() - size_of::<f32>() * elements(copy, stage);
        let at = start + size_of::<f32>() * place;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    });
}

fn elements(copy: &Copy, stage: &str) -> usize {
    let file = file_of(copy, stage);
    npy::read(copy.golden().join(file), Some(DType::F32))
        .unwrap()
        .len()
}

#[test]
fn what_padding_holds_decides_nothing() {
    let copy = Copy::of(LEFT);
    let (row, width) = (20, 64);
    for column in 0..8 {
        let place = (row + column) * width;
        set(&copy, "h.0.self_attention", place, f32::NAN);
        set(&copy, "word_embeddings_layernorm", place + 1, 1e30);
        // What a position of padding attends to.
        set(
            &copy,
            "h.0.self_attention.probs",
            (8 * row + column) * row,
            f32::INFINITY,
        );
    }
    let outcome = against(&copy.golden(), "bloom_fp32_tp1");
    assert_eq!(outcome.verdict(), Verdict::Pass);
    let note = "2 sequences of up to 20 tokens in 2 rows: 8 of 40 tokens are padding, not compared";
    assert!(
        outcome.notes.iter().any(|n| n == note),
        "{:?}",
        outcome.notes
    );
    let elements: Vec<usize> = outcome
        .stages
        .iter()
        .filter(|result| result.stage.as_str() == "word_embeddings")
        .map(|result| result.metrics.elements)
        .collect();
    assert_eq!(elements, [32 * width, 32 * width]);
}

#[test]
fn a_difference_beside_padding_is_found_where_it_was_recorded() {
    let copy = Copy::of(LEFT);
    let (row, width) = (20, 64);
    set(&copy, "h.0", (row + 9) * width + 5, 7.0);
    let outcome = against(&copy.golden(), "bloom_fp32_tp1");
    assert_eq!(outcome.verdict(), Verdict::Fail);
    let failed = outcome
        .stages
        .iter()
        .find(|result| result.verdict() == Verdict::Fail);
    let Metrics { max_abs, .. } = &failed.unwrap().metrics;
    assert_eq!(max_abs.as_ref().unwrap().position, [1, 9, 5]);
}

#[test]
fn other_weights_fail_on_padded_rows() {
    let other = Copy::of("bloom_bf16_tp1");
    other.edit_weights(|bytes, of| {
        let norm = of("transformer.h.1.input_layernorm.weight");
        bytes[norm.start + 1] ^= 1;
    });
    let golden = goldens().join("transformers_bloom_bf16_padded_left");
    let outcome = common::run(&common::case(golden, other.model()));
    let mut failed = outcome
        .stages
        .iter()
        .filter(|result| result.verdict() == Verdict::Fail);
    assert_eq!(failed.next().unwrap().stage.as_str(), "h.1.input_layernorm");
}

#[test]
fn runs_padded_on_either_side_are_of_the_same_sequences() {
    let [left, right] = [LEFT, RIGHT].map(|name| Golden::open(goldens().join(name)).unwrap());
    let rules = Default::default();
    let both = |a: &Golden, b: &Golden| diff_dumps(a, b, &rules, &Options::default(), &mut |_| {});
    assert_eq!(both(&left, &right).unwrap().verdict(), Verdict::Pass);
    // Without its mask, the same run is one of other tokens.
    let copy = Copy::of(RIGHT);
    let path = copy.golden().join(Golden::MANIFEST);
    let mut manifest: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove("attention_mask");
    fs::write(&path, manifest.to_string()).unwrap();
    let whole = Golden::open(copy.golden()).unwrap();
    let error = both(&left, &whole).err().unwrap().to_string();
    assert!(error.contains("the tokens of"), "{error}");
}

/// A dump of a stage whose second half of a row has positions of its own.
struct Dump(tempfile::TempDir);

impl Dump {
    fn new(change: impl FnOnce(&mut Value)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = goldens().join("megatron_core_llama3_fp32_tp1/hf/config.json");
        let config: Value = serde_json::from_str(&fs::read_to_string(model).unwrap()).unwrap();
        let width = config["hidden_size"].as_u64().unwrap() as usize;
        let mut description = json!({
            "parity_dump": 1, "framework": "transformers", "framework_version": "5.17.0",
            "dtype": "fp32", "device": "cpu", "config": config,
            "numerics": {"use_cache": false},
            "arrays": [{"file": "000.model.embed_tokens.output.npy", "module": "model.embed_tokens",
                        "kind": "output", "dtype": "fp32", "layout": "bsh", "shape": [1, 4, width]}],
        });
        change(&mut description);
        let dump = Self(folder);
        dump.write("dump.json", &description.to_string());
        dump.array("tokens.npy", &[1, 4], vec![5_i64, 6, 7, 8]);
        dump.array("position_ids.npy", &[1, 4], vec![0_i64, 1, 0, 1]);
        dump.array(
            "000.model.embed_tokens.output.npy",
            &[1, 4, width],
            vec![0_f32; 4 * width],
        );
        dump
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn array<T: parity::tensor::Element>(&self, name: &str, shape: &[usize], values: Vec<T>) {
        let tensor = Tensor::from_vec(shape, values).unwrap();
        npy::write(&self.0.path().join(name), &tensor).unwrap();
    }

    fn golden(&self) -> PathBuf {
        self.0.path().join("golden")
    }

    fn import(&self, statistics_only: bool) -> Result<Imported> {
        import(self.0.path(), None, &self.golden(), statistics_only)
    }

    fn lengths(&self) -> Option<Vec<usize>> {
        self.import(false).unwrap();
        let golden = Golden::open(self.golden()).unwrap();
        golden.padding().map(|padding| padding.lengths().to_vec())
    }

    fn refusal(&self, statistics_only: bool) -> String {
        let error = self.import(statistics_only).err().unwrap().to_string();
        assert!(!self.golden().exists());
        error
    }
}

#[test]
fn positions_that_start_again_begin_a_sequence_where_the_framework_has_it_so() {
    assert_eq!(Dump::new(|_| ()).lengths(), Some(vec![2, 2]));
    let cached = |dump: &mut Value| dump["numerics"]["use_cache"] = json!(true);
    assert_eq!(Dump::new(cached).lengths(), None);
    let early = |dump: &mut Value| dump["framework_version"] = json!("4.40.1");
    assert_eq!(Dump::new(early).lengths(), None);
    let masked = Dump::new(|_| ());
    masked.array("attention_mask.npy", &[1, 4], vec![0_i64, 1, 1, 1]);
    assert_eq!(masked.lengths(), Some(vec![3]));
}

#[test]
fn what_masks_and_positions_leave_open_is_refused() {
    let silent = Dump::new(|dump| dump["numerics"] = json!({})).refusal(false);
    assert!(silent.contains("use_cache"), "{silent}");
    let statistics = Dump::new(|_| ()).refusal(true);
    assert!(statistics.contains("--statistics-only"), "{statistics}");
    let dump = Dump::new(|_| ());
    dump.array("attention_mask.npy", &[1, 4], vec![1_i64, 1, 2, 2]);
    let numbered = dump.refusal(false);
    assert!(numbered.contains("0 and 1, found 2"), "{numbered}");
    let dump = Dump::new(|_| ());
    dump.array("attention_mask.npy", &[1, 4], vec![0_i64; 4]);
    let nothing = dump.refusal(false);
    assert!(nothing.contains("padding only"), "{nothing}");
}

/// A dump says how many tokens there are beside how many rows the embedding is padded to; a converted model may
/// have either.
#[test]
fn a_padded_vocabulary_is_compared_on_the_rows_that_both_have() {
    let dump = common::raw_dump(&goldens().join("bloom_bf16_tp2"));
    let config = dump.path().join("config.json");
    let with = |tokens: usize, rows: usize| {
        let mut settings: Value =
            serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        settings["vocab_size"] = json!(tokens);
        settings["padded_vocab_size"] = json!(rows);
        fs::write(&config, settings.to_string()).unwrap();
        let output = dump.path().join(format!("golden_{tokens}_{rows}"));
        let from = Some(Framework::MegatronDeepspeed);
        import(dump.path(), from, &output, false).map(|_| output)
    };
    let golden = with(500, 512).unwrap();
    let cut = dump.path().join("cut");
    let converted = Command::new(env!("CARGO_BIN_EXE_parity"))
        .arg("convert")
        .arg(goldens().join("bloom_bf16_tp2/checkpoint"))
        .args(["--vocab-size", "500", "--output"])
        .arg(&cut)
        .output()
        .unwrap();
    assert!(converted.status.success(), "{converted:?}");
    for (model, columns) in [(goldens().join("bloom_bf16_tp2/hf"), 512), (cut, 500)] {
        let outcome = common::run(&common::case(&golden, model));
        assert_eq!(outcome.verdict(), Verdict::Pass);
        let logits = outcome.stages.last().unwrap();
        assert_eq!(logits.shape.last(), Some(&columns));
        let note = "compared on the 500 that both have";
        let said = outcome.notes.iter().any(|other| other.contains(note));
        assert_eq!(said, columns == 500, "{:?}", outcome.notes);
    }
    let error = with(600, 512).err().unwrap().to_string();
    assert!(
        error.contains("600") && error.contains("found 512"),
        "{error}"
    );
}
