//! Models run straight from Megatron's shards, and arithmetics of the two frameworks that drop or
//! move things.

use crate::common::{Copy, case, goldens, raw_dump, run};
use parity::case::{ArithmeticName, Case, Mode};
use parity::checkpoint::{SafetensorsFiles, Weights};
use parity::diff::{CaseOutcome, Verdict};
use parity::golden::import;
use parity::report::{Detail, Format};
use std::fs;
use std::num::NonZeroUsize;

fn shards(name: &str) -> Case {
    case(
        goldens().join(name),
        goldens().join(name).join("checkpoint"),
    )
}

fn isolated(outcome: &CaseOutcome) -> Vec<&parity::diff::StageResult> {
    let stages = outcome.stages.iter();
    stages
        .filter(|result| result.mode == Mode::Isolated)
        .collect()
}

#[test]
fn shards_in_megatrons_arithmetic_are_megatrons_model() {
    let outcome = run(&shards("bloom_fp32_tp2"));
    assert!(
        outcome.title.contains("megatron (tensor parallel 2)"),
        "{}",
        outcome.title
    );
    assert_eq!(isolated(&outcome).len(), 28);
    for result in isolated(&outcome) {
        let rel = result.metrics.relative_frobenius;
        assert!(rel <= 5e-7, "{}: {rel:e}", result.stage);
    }
    let outcome = run(&shards("bloom_bf16_tp2"));
    for result in isolated(&outcome) {
        let (unequal, elements) = (result.metrics.unequal, result.metrics.elements);
        assert!(
            unequal * 1000 <= elements,
            "{}: {unequal} of {elements}",
            result.stage
        );
    }
}

/// Partial sums are what Megatron's arithmetic on two ranks means, wherever the weights lie.
#[test]
fn a_merged_model_can_be_run_over_ranks() {
    let merged = |ranks: usize| Case {
        tensor_parallel: NonZeroUsize::new(ranks),
        ..case(
            goldens().join("bloom_bf16_tp2"),
            goldens().join("bloom_bf16_tp2/hf"),
        )
    };
    let unequal = |outcome: &CaseOutcome| {
        isolated(outcome)
            .iter()
            .map(|result| result.metrics.unequal)
            .collect::<Vec<_>>()
    };
    let sharded = unequal(&run(&shards("bloom_bf16_tp2")));
    assert_eq!(unequal(&run(&merged(2))), sharded);
    assert_ne!(
        unequal(&run(&merged(1))),
        sharded,
        "one sum is another arithmetic"
    );
}

/// transformers' arithmetic on shards is the converted model's.
#[test]
fn shards_can_be_run_as_the_converted_model_would_be() {
    let as_transformers = |case: Case| Case {
        arithmetic: Some(ArithmeticName::Transformers),
        ..case
    };
    let sharded = run(&as_transformers(shards("bloom_bf16_tp2")));
    let golden = goldens().join("bloom_bf16_tp2");
    let merged = run(&as_transformers(case(&golden, golden.join("hf"))));
    let figures = |outcome: &CaseOutcome| {
        let stages = outcome.stages.iter();
        let figures = stages.map(|r| (r.stage.clone(), r.mode, r.metrics.unequal));
        figures.collect::<Vec<_>>()
    };
    assert_eq!(figures(&sharded), figures(&merged));
}

#[test]
fn slow_but_exact_drops_biases_and_that_is_said() {
    let copy = Copy::of("bloom_bf16_tp2");
    copy.replace(
        "hf/config.json",
        "\"slow_but_exact\": false",
        "\"slow_but_exact\": true",
    );
    let outcome = run(&copy.case());
    assert_eq!(outcome.verdict(), Verdict::Fail);
    let first = outcome
        .stages
        .iter()
        .find(|result| result.verdict() == Verdict::Fail);
    let first = first.expect("a failing stage");
    assert_eq!(first.stage.as_str(), "h.0.self_attention.dense");
    let report = Format::Terminal.render(&[outcome], Detail::Stages);
    let report = anstream::adapter::strip_str(&report).to_string();
    let line = report
        .lines()
        .find(|line| line.contains("first failing stage"));
    let line = line.expect("a line on it");
    assert!(
        line.contains("the candidate lacks h.0.self_attention.dense.bias"),
        "{line}"
    );
}

/// Without more than one rank there is nothing to cut, and transformers takes the usual path.
#[test]
fn slow_but_exact_needs_more_than_one_rank() {
    let copy = Copy::of("bloom_bf16_tp1");
    copy.replace(
        "hf/config.json",
        "\"slow_but_exact\": false",
        "\"slow_but_exact\": true",
    );
    let outcome = run(&copy.case());
    assert_eq!(outcome.verdict(), Verdict::Pass);
}

/// What `scripts/parity_dump.py` writes says itself whose it is: module paths in full, settings and
/// types in `dump.json`.
#[test]
fn a_described_dump_needs_no_more_information() {
    let golden = goldens().join("transformers_bloom_bf16_tp1");
    let dump = raw_dump(&golden);
    for entry in dump.path().read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let in_model = name
            .find(".h.")
            .or(name.find(".word"))
            .or(name.find(".ln_f"));
        if let Some(place) = in_model.filter(|place| *place == 3) {
            let named = format!("{}.transformer.{}", &name[..place], &name[place + 1..]);
            fs::rename(&path, path.with_file_name(named)).unwrap();
        }
    }
    fs::remove_file(dump.path().join("config.json")).unwrap();
    let config = fs::read_to_string(goldens().join("bloom_bf16_tp1/hf/config.json")).unwrap();
    let describe = |version: usize, framework: &str| {
        let text = format!(
            r#"{{"parity_dump": {version}, "framework": "{framework}", "dtype": "bf16",
                "torch": "2.15.0", "device": "cpu", "config": {config}, "arrays": []}}"#
        );
        fs::write(dump.path().join("dump.json"), text).unwrap();
    };
    let output = dump.path().join("golden");
    let refused = |version, framework| {
        describe(version, framework);
        let error = import(dump.path(), None, &output, false).expect_err("refused");
        error
            .to_string()
            .replace(&dump.path().display().to_string(), "DUMP")
    };
    insta::assert_snapshot!(refused(2, "transformers"), @"DUMP/dump.json: parity_dump: expected version 1, found 2; use the parity_dump.py of this version");
    insta::assert_snapshot!(refused(1, "nemo"), @"DUMP/dump.json: framework: expected a dump of megatron-deepspeed, megatron-core or transformers, found one of nemo, whose models parity has no plan for yet; say whose hooks wrote it with --from");

    describe(1, "transformers");
    let imported = import(dump.path(), None, &output, false).expect("imported");
    assert!(imported.unmapped.is_empty(), "{:?}", imported.unmapped);
    let before = parity::golden::Golden::open(&golden).unwrap();
    let after = parity::golden::Golden::open(&output).unwrap();
    let stages = |golden: &parity::golden::Golden| {
        let stages = golden
            .manifest()
            .stages
            .iter()
            .map(|record| record.stage.clone());
        stages.collect::<Vec<_>>()
    };
    assert_eq!(stages(&after), stages(&before));
    assert_eq!(after.manifest().arithmetic, before.manifest().arithmetic);
}

/// What diff runs from shards is what convert writes.
#[test]
fn weights_seen_in_shards_are_those_written() {
    let checkpoint = goldens().join("megatron_core_llama/checkpoints/torch_dist_tp2");
    let checkpoint = parity::checkpoint::megatron::MegatronCheckpoint::open(&checkpoint, &[]);
    let model = parity::convert::Converted::new(checkpoint.unwrap(), None, Some(500)).unwrap();
    let written = SafetensorsFiles::open(goldens().join("megatron_core_llama/hf")).unwrap();
    for name in model.names() {
        let full = [format!("model.{name}"), name.to_owned()];
        let full = full
            .iter()
            .find(|full| written.stored(full).is_some())
            .expect("its like");
        assert!(
            model
                .load(name)
                .unwrap()
                .bits_equal(&written.load(full).unwrap()),
            "{name}"
        );
    }
}
