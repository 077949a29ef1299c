//! What an import joins, refuses and says of dumps, each a kind of what users bring.

use crate::common::{self, goldens, raw_dump};
use parity::arch::Framework;
use parity::diff::Verdict;
use parity::golden::{Content, Golden, Imported, Reference, import};
use parity::tensor::{DType, Tensor, npy};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const FRAMEWORK: Framework = Framework::MegatronDeepspeed;

fn imported(dump: &Path) -> parity::Result<(PathBuf, Imported)> {
    let output = dump.join("golden");
    let imported = import(dump, Some(FRAMEWORK), &output, false)?;
    Ok((output, imported))
}

fn refusal(dump: &Path) -> String {
    let error = imported(dump).expect_err("refused").to_string();
    assert!(!dump.join("golden").exists());
    error.replace(&dump.display().to_string(), "DUMP")
}

/// The files of a dump whose names hold this.
fn files(dump: &Path, holding: &str) -> Vec<PathBuf> {
    let entries = dump.read_dir().expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.contains(holding) && name.ends_with(".npy")
        })
    };
    let mut files: Vec<PathBuf> = paths.filter(named).collect();
    files.sort();
    assert!(!files.is_empty(), "{holding}");
    files
}

fn edit(path: &Path, change: impl FnOnce(Tensor) -> Tensor) {
    let array = npy::read(path, Some(DType::Bf16)).expect("an array");
    npy::write(path, &change(array)).expect("written");
}

fn set(dump: &Path, key: &str, value: impl Into<Value>) {
    let path = dump.join("config.json");
    let text = fs::read_to_string(&path).expect("a config");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config[key] = value.into();
    fs::write(path, config.to_string()).expect("written");
}

/// Stages of whose values every rank has all, in Megatron's blocks: what sequence parallelism scatters.
fn replicated(golden: &Golden) -> Vec<(String, Tensor)> {
    let records = golden.manifest().stages.iter();
    let replicated = records.filter(|record| {
        let starts_in_block = record.source.starts_with(['3', '4']);
        let join = matches!(&record.content, Content::Full { files, .. } if files.len() == 1);
        starts_in_block && join
    });
    replicated
        .map(|record| {
            let value = match golden.reference(&record.stage).expect("a stage") {
                Some(Reference::Full(value)) => value,
                _ => panic!("values"),
            };
            (record.source.clone(), value)
        })
        .collect()
}

#[test]
fn a_sequence_that_ranks_share_is_joined() {
    let original = Golden::open(goldens().join("bloom_bf16_tp2")).expect("a golden");
    let dump = raw_dump(original.path());
    let mut scattered = 0;
    for (source, _) in replicated(&original) {
        for path in files(dump.path(), &format!(".{source}.")) {
            let rank = usize::from(path.to_string_lossy().contains(".tp1."));
            edit(&path, |array| {
                let rows = array.shape()[0] / 2;
                array
                    .slice(0, rank * rows..(rank + 1) * rows)
                    .expect("a part")
            });
            scattered += 1;
        }
    }
    assert!(scattered > 20, "{scattered}");
    let (golden, imported) = imported(dump.path()).expect("an import");
    let golden = Golden::open(golden).expect("a golden");
    for record in &imported.manifest.stages {
        let of = |golden: &Golden| match golden.reference(&record.stage).expect("a stage") {
            Some(Reference::Full(value)) => value,
            _ => panic!("values"),
        };
        assert!(of(&golden).bits_equal(&of(&original)), "{}", record.stage);
    }
    let outcome = common::run(&common::case(golden.path(), original.path().join("hf")));
    assert_eq!(outcome.verdict(), Verdict::Pass);
    assert_eq!(outcome.coverage.compared, original.manifest().stages.len());
}

#[test]
fn a_replica_that_differs_by_more_than_rounding_is_refused() {
    let dump = raw_dump(&goldens().join("bloom_bf16_tp2"));
    let second = files(dump.path(), ".3.input_layernorm.output.tp1.");
    // Another order of the rows is a difference that no rounding makes.
    edit(&second[0], |array| {
        let halves = [10..20, 0..10].map(|rows| array.slice(0, rows).expect("rows"));
        Tensor::concat(&halves, 0).expect("an array")
    });
    insta::assert_snapshot!(refusal(dump.path()));
}

#[test]
fn every_stage_has_the_shape_that_tokens_and_settings_say() {
    let of = |damage: &dyn Fn(&Path)| {
        let dump = raw_dump(&goldens().join("bloom_bf16_tp2"));
        damage(dump.path());
        refusal(dump.path())
    };
    let tokens = of(&|dump| {
        let path = dump.join("tokens.npy");
        let tokens = npy::read(&path, None).expect("tokens");
        npy::write(&path, &tokens.slice(1, 0..18).expect("tokens")).expect("written");
    });
    let hidden = of(&|dump| set(dump, "hidden_size", 128));
    let heads = of(&|dump| set(dump, "n_head", 4));
    insta::assert_snapshot!([tokens, hidden, heads].join("\n"));
}
