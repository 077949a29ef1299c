//! A comparison of nothing is no pass, whatever options led to it, and what was compared is said.

use crate::common::Copy;
use parity::diff::{Modes, Options, Share, Verdict, diff, diff_dumps};
use parity::golden::Golden;
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Output};

fn parity(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_parity"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(args)
        .output()
        .expect("parity runs")
}

/// Changes what a golden says it holds.
fn rewrite(copy: &Copy, change: impl FnOnce(&mut Value)) {
    let path = copy.golden().join(Golden::MANIFEST);
    let text = fs::read_to_string(&path).expect("a manifest");
    let mut manifest = serde_json::from_str(&text).expect("JSON");
    change(&mut manifest);
    fs::write(path, manifest.to_string()).expect("written");
}

fn stages(manifest: &mut Value) -> &mut Vec<Value> {
    manifest["stages"].as_array_mut().expect("stages")
}

/// Every way to ask for less, on a golden whose one stage is of no step of the model: exit 1 or 2, never 0.
#[test]
fn no_option_makes_a_pass_of_nothing() {
    let copy = Copy::of("bloom_fp32_tp1");
    rewrite(&copy, |manifest| {
        let stages = stages(manifest);
        stages.truncate(1);
        stages[0]["stage"] = json!("no.such.stage");
    });
    let (golden, model) = (copy.golden(), copy.model());
    let base = [
        "diff",
        "--golden",
        golden.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
    ];
    let options: [&[&str]; 9] = [
        &[],
        &["--mode", "isolated"],
        &["--mode", "chained"],
        &["--stages", "no.*"],
        &["--stages", "nothing*"],
        &["--tolerance", "rel=1"],
        &["--fail-fast"],
        &["--explain"],
        &["--require-coverage", "0%"],
    ];
    for extra in options {
        let output = parity(&[&base[..], extra].concat());
        let code = output.status.code();
        assert!(
            matches!(code, Some(1 | 2)),
            "{extra:?}: {code:?} {output:?}"
        );
    }
    // As long as the stage is one of the model's, a pattern that leaves it out is a mistake.
    let whole = Copy::of("bloom_fp32_tp1");
    let (golden, model) = (whole.golden(), whole.model());
    let output = parity(&[
        "diff",
        "--golden",
        golden.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
        "--stages",
        "nothing*",
    ]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// Two goldens whose stages have no elements, of whatever shape.
#[test]
fn stages_without_elements_are_not_compared() {
    let mut judged = 0;
    for shape in [[1, 0, 64], [0, 20, 64], [1, 20, 0]] {
        let copy = Copy::of("bloom_fp32_tp1");
        let header = format!(
            "{{'descr': '<f4', 'fortran_order': False, 'shape': {:?}, }}",
            shape
        );
        let header = header.replace('[', "(").replace(']', ")");
        let name = "h.0.input_layernorm";
        rewrite(&copy, |manifest| {
            stages(manifest).retain(|stage| stage["stage"] == name);
        });
        copy.edit(&format!("{name}.npy"), true, |bytes| {
            let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
            file.extend(format!("{header:<117}\n").bytes());
            *bytes = file;
        });
        let golden = Golden::open(copy.golden());
        let golden = golden.expect("a golden");
        let rules = Default::default();
        let outcome = diff_dumps(&golden, &golden, &rules, &Options::default(), &mut |_| {});
        if let Ok(outcome) = outcome {
            judged += 1;
            assert_eq!(outcome.verdict(), Verdict::Fail, "{shape:?}");
            assert_eq!(outcome.coverage.compared, 0);
            let fault = outcome.coverage.fault().expect("a fault");
            assert!(fault.contains("nothing was compared"), "{fault}");
        }
    }
    assert!(judged > 0);
}

#[test]
fn coverage_can_be_required_and_is_reported() {
    let copy = Copy::of("bloom_fp32_tp1");
    let run = |stages: &str, coverage: &str| {
        let options = Options {
            modes: Modes::Isolated,
            stages: stages.parse().unwrap(),
            coverage: coverage.parse().unwrap(),
            ..Options::default()
        };
        diff(&copy.case(), &options, &mut |_| {}).expect("a run")
    };
    let all = run("*", "100%");
    assert_eq!(
        (all.verdict(), all.coverage.skipped.len()),
        (Verdict::Pass, 0)
    );
    let coverage = &run("h.0*", "0%").coverage;
    assert_eq!(
        coverage.compared + coverage.skipped.len(),
        coverage.expected
    );
    assert!(coverage.compared > 0 && coverage.fault().is_none());
    let part = run("h.0*", "100%");
    assert_eq!(part.verdict(), Verdict::Fail);
    assert_eq!(
        part.coverage.fault().unwrap(),
        "12 of the 28 stages that the reference holds were compared, where 100% are required"
    );
    assert_eq!(run("h.0*", "40%").verdict(), Verdict::Pass);
    let text = parity::report::Format::Json.render(&[part], parity::report::Detail::Stages);
    let report: Value = serde_json::from_str(&text).unwrap();
    let coverage = &report["cases"][0]["coverage"];
    assert_eq!(
        (&coverage["expected"], &coverage["compared"]),
        (&json!(28), &json!(12))
    );
    assert_eq!(Share::ALL.to_string(), "100%");
}

/// Weights that no comparison depends on are listed, and one that is not a number there is no pass.
#[test]
fn weights_that_nothing_compared_depends_on_are_said_and_are_numbers() {
    let copy = Copy::of("megatron_core_gpt2_fp32_tp1");
    let golden = crate::common::goldens().join("transformers_gpt2_fp32");
    let run = || crate::common::run(&crate::common::case(&golden, copy.model()));
    let name = "transformer.wpe.weight";
    let untouched = run().coverage.untouched;
    let (rows, of) = untouched
        .iter()
        .find(|weight| name.ends_with(&weight.tensor))
        .expect("positions past the end")
        .rows
        .expect("a table");
    assert!(0 < rows && rows < of);
    assert!(untouched.iter().all(|weight| weight.non_finite == 0));
    copy.edit_weights(|bytes, place| {
        let table = place(name);
        bytes[table.end - 4..table.end].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let outcome = run();
    assert_eq!(outcome.failures().count(), 0);
    assert_eq!(outcome.verdict(), Verdict::Fail);
    let fault = outcome.coverage.fault().expect("a fault");
    assert!(
        fault.starts_with("1 NaN or infinite values in wpe.weight"),
        "{fault}"
    );
}

/// A dump of the first block alone leaves the rest of the model to nothing but this look.
#[test]
fn weights_of_steps_that_do_not_run_are_looked_at() {
    let copy = Copy::of("bloom_bf16_tp1");
    rewrite(&copy, |manifest| {
        let recorded = stages(manifest);
        recorded.retain(|stage| stage["stage"] == json!("h.0"));
    });
    copy.edit_weights(|bytes, place| {
        let weight = place("transformer.h.1.mlp.dense_h_to_4h.weight");
        bytes[weight.start..weight.start + 2].copy_from_slice(&0x7f80_u16.to_le_bytes());
    });
    let outcome = crate::common::run(&copy.case());
    assert_eq!(outcome.verdict(), Verdict::Fail);
    let fault = outcome.coverage.fault().expect("a fault");
    assert!(fault.contains("h.1.mlp.dense_h_to_4h.weight"), "{fault}");
}

/// Means and extremes do not see where elements are; a projection does.
#[test]
fn rows_of_the_vocabulary_that_changed_places_show_in_statistics() {
    for name in ["bloom_fp32_tp1", "bloom_bf16_tp1"] {
        let dump = crate::common::raw_dump(&crate::common::goldens().join(name));
        let golden = dump.path().join("golden");
        let from = Some(parity::arch::Framework::MegatronDeepspeed);
        parity::golden::import(dump.path(), from, &golden, true).expect("statistics");
        let tokens = Golden::open(&golden)
            .expect("a golden")
            .tokens()
            .expect("tokens");
        let tokens = tokens.as_slice::<i64>().expect("ids");
        let copy = Copy::of(name);
        let run = || crate::common::run(&crate::common::case(&golden, copy.model()));
        assert_eq!(run().verdict(), Verdict::Pass, "{name}");
        copy.edit_weights(|bytes, place| {
            let table = &mut bytes[place("transformer.word_embeddings.weight")];
            let width = table.len() / 512;
            let unused: Vec<usize> = (0..512)
                .filter(|row| !tokens.contains(&(*row as i64)))
                .collect();
            let old = table.to_vec();
            for (to, from) in unused.iter().zip(unused.iter().cycle().skip(1)) {
                let from = &old[from * width..(from + 1) * width];
                table[to * width..(to + 1) * width].copy_from_slice(from);
            }
        });
        let outcome = run();
        let failed: Vec<&str> = outcome
            .failures()
            .map(|result| result.stage.as_str())
            .collect();
        assert_eq!(failed, ["logits"], "{name}");
    }
}
