//! `parity selftest`: the verdicts of docs/mutations.md on the cases it is of, and what goldens of few stages and
//! of statistics cannot see. Every bug is a run: all but one test are of `scripts/full_check.sh`.

use crate::common::{self, goldens};
use parity::arch::Framework;
use parity::case::Case;
use parity::diff::{Modes, Options, Verdict};
use parity::golden::import;
use parity::selftest::{Outcome, SelfTest, selftest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(case: &Case, modes: Modes) -> SelfTest {
    let options = Options {
        modes,
        ..Options::default()
    };
    selftest(case, &options, &mut |_| {}).expect("a selftest")
}

/// Whether each bug is caught in BLOOM, and at which stage, as docs/mutations.md has it.
fn documented(dtype: &str) -> BTreeMap<String, Option<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/mutations.md");
    let text = fs::read_to_string(path).expect("the table");
    let rows = text.lines().filter(|line| line.starts_with("| BLOOM |"));
    let rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(|row| row[3] == dtype)
        .map(|row| {
            let caught = (row[4] == "yes").then(|| row[5].trim_matches('`').to_owned());
            (row[2].to_owned(), caught)
        })
        .collect()
}

#[test]
fn verdicts_on_bloom_are_those_that_are_documented() {
    if !common::is_full() {
        return;
    }
    for dtype in ["fp32", "bf16"] {
        let golden = goldens().join(format!("bloom_{dtype}_tp1"));
        let test = run(&common::case(&golden, golden.join("hf")), Modes::Isolated);
        assert!(test.names);
        let documented = documented(dtype);
        let mut compared = 0;
        for trial in &test.trials {
            let Some(expected) = documented.get(trial.bug) else {
                continue;
            };
            let found = match &trial.outcome {
                Outcome::Caught { stage, .. } => Some(stage.to_string()),
                Outcome::Refused { error } => Some(error.clone()),
                Outcome::Passed { .. } => None,
            };
            assert_eq!(&found, expected, "{dtype}: {}", trial.bug);
            compared += 1;
        }
        // The table has bugs of configs besides, which are no rule's.
        assert!(
            compared + 2 >= documented.len(),
            "{compared} of {}",
            documented.len()
        );
    }
}

/// The golden of a dump without the stages whose files' names hold none of these.
fn only(golden: &str, kept: &[&str], folder: &Path) -> PathBuf {
    let to = folder.join("sparse");
    let from = goldens().join(golden);
    fs::create_dir(&to).expect("a folder");
    for file in from.read_dir().expect("a folder") {
        let file = file.expect("a file").path();
        if file.is_file() {
            fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
        }
    }
    let path = to.join("golden.json");
    let mut manifest: Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("text")).expect("JSON");
    let stages = manifest["stages"].as_array_mut().expect("stages");
    stages.retain(|stage| kept.contains(&stage["stage"].as_str().expect("a name")));
    fs::write(path, manifest.to_string()).expect("written");
    to
}

#[test]
fn few_stages_say_what_to_record() {
    if !common::is_full() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let golden = only("bloom_fp32_tp1", &["h.0", "h.1", "logits"], folder.path());
    let case = common::case(golden, goldens().join("bloom_fp32_tp1/hf"));
    let test = run(&case, Modes::Both);
    assert_eq!(test.baseline, Verdict::Pass);
    assert!(!test.names);
    let text = parity::selftest::text(&test);
    assert!(text.contains("none is looked for by name"), "{text}");
    assert!(
        text.contains("25 stages that the golden does not hold (word_embeddings first)"),
        "{text}"
    );
    // In fp32 what a block does wrong shows in its output.
    assert!(test.caught() * 10 >= test.trials.len() * 8, "{text}");
    for trial in &test.trials {
        match &trial.outcome {
            Outcome::Caught { stage, named, .. } => {
                assert!(["h.0", "h.1", "logits"].contains(&stage.as_str()));
                assert_eq!(*named, None);
            }
            Outcome::Refused { error } => panic!("{}: {error}", trial.bug),
            Outcome::Passed { changes, .. } => assert!(changes.is_some(), "{}", trial.bug),
        }
    }
}

#[test]
fn statistics_say_what_they_cannot_see() {
    if !common::is_full() {
        return;
    }
    let dump = common::raw_dump(&goldens().join("bloom_bf16_tp1"));
    let golden = dump.path().join("statistics");
    import(
        dump.path(),
        Some(Framework::MegatronDeepspeed),
        &golden,
        true,
    )
    .expect("a golden");
    let case = common::case(golden, goldens().join("bloom_bf16_tp1/hf"));
    let test = run(&case, Modes::Both);
    assert_eq!(test.baseline, Verdict::Pass);
    let text = parity::selftest::text(&test);
    assert!(
        text.contains("28 stages of which statistics are recorded"),
        "{text}"
    );
    assert!(
        0 < test.caught() && test.caught() < test.trials.len(),
        "{text}"
    );
    assert!(text.contains("PASSES: "), "{text}");
}

#[test]
fn a_share_that_is_not_caught_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let golden = only(
        "bloom_fp32_tp1",
        &["word_embeddings", "word_embeddings_layernorm"],
        folder.path(),
    );
    let status = |share: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_parity"))
            .arg("selftest")
            .arg("--golden")
            .arg(&golden)
            .arg("--model")
            .arg(goldens().join("bloom_fp32_tp1/hf"))
            .args(["--require", share])
            .output()
            .expect("parity runs");
        output.status.code()
    };
    assert_eq!(status("1%"), Some(0));
    assert_eq!(status("90%"), Some(1));
}

/// Rotary tables of another width are no stage that can be judged: the comparison is refused, which is no pass.
#[test]
fn a_bug_of_another_shape_is_caught() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = ["embed_tokens", "rotary_emb.cos", "layers.0.input_layernorm"];
    let golden = only("transformers_llama3_bf16_packed", &kept, folder.path());
    let model = goldens().join("megatron_core_llama3_fp32_tp1/hf");
    let case = Case {
        dtype: Some(parity::tensor::DType::Bf16),
        ..common::case(golden, model)
    };
    let test = run(&case, Modes::Isolated);
    let is_refused = |error: &str| error.contains("rotary_emb.cos: expected shape");
    let mut outcomes = test.trials.iter().map(|trial| &trial.outcome);
    assert!(
        outcomes.any(|outcome| matches!(outcome, Outcome::Refused { error } if is_refused(error))),
        "{}",
        parity::selftest::text(&test)
    );
}
