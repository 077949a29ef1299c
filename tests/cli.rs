//! What the command line shows and returns.

use crate::common::{Copy, goldens};
use std::process::{Command, Output};

fn parity(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_parity"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(args)
        .output()
        .expect("parity runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// A run that fails at one stage, on stages whose figures are the same on every processor.
fn failing(format: &str) -> (Output, String) {
    let copy = Copy::of("bloom_bf16_tp1");
    copy.replace(
        "hf/config.json",
        "\"layer_norm_epsilon\": 1e-05",
        "\"layer_norm_epsilon\": 1e-02",
    );
    let (golden, model) = (copy.golden(), copy.model());
    let output = parity(&[
        "diff",
        "--golden",
        golden.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
        "--stages",
        "{word_embeddings*,h.0.self_attention}",
        "--mode",
        "isolated",
        "--format",
        format,
    ]);
    let text = stdout(&output);
    (output, text)
}

#[test]
fn a_failure_is_rendered_in_every_format() {
    for format in ["terminal", "json", "markdown"] {
        let (output, text) = failing(format);
        assert_eq!(output.status.code(), Some(1));
        insta::assert_snapshot!(format!("failure_{format}"), text);
    }
}

#[test]
fn json_has_what_its_schema_promises() {
    let (_, text) = failing("json");
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["verdict"], "fail");
    assert_eq!(
        report["first_failure"]["stage"],
        "word_embeddings_layernorm"
    );
    let documented = std::fs::read_to_string("docs/report.md").unwrap();
    let keys = report["stages"][0].as_object().unwrap().keys();
    for key in keys.chain(report.as_object().unwrap().keys()) {
        assert!(
            documented.contains(&format!("`{key}`")),
            "docs/report.md does not explain {key}"
        );
    }
}

#[test]
fn an_explanation_is_rendered_in_every_format() {
    let explained = |format: &str| {
        let case = "cases/transformers_bloom_bf16_tp2_slow_but_exact.toml";
        let output = parity(&[
            "explain",
            case,
            "--arithmetic",
            "megatron",
            "--format",
            format,
        ]);
        assert_eq!(output.status.code(), Some(1));
        stdout(&output)
    };
    for format in ["terminal", "markdown"] {
        insta::assert_snapshot!(format!("explanation_{format}"), explained(format));
    }
    let report: serde_json::Value = serde_json::from_str(&explained("json")).unwrap();
    let explanation = &report["cases"][0]["explanations"][0];
    let pretty = serde_json::to_string_pretty(explanation).unwrap();
    insta::assert_snapshot!("explanation_json", pretty);
    let documented = std::fs::read_to_string("docs/report.md").unwrap();
    for key in explanation.as_object().unwrap().keys() {
        assert!(
            documented.contains(&format!("`{key}`")),
            "docs/report.md does not explain {key}"
        );
    }
}

#[test]
fn reports_are_written_beside_the_terminals() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let cases = ["bloom_fp32_tp1", "megatron_core_gpt2_bf16_tp2"];
    let [bloom, gpt2] = cases.map(|name| format!("cases/{name}.toml"));
    let report = format!("json={}", json.display());
    let output = parity(&["diff", &bloom, &gpt2, "--output", &report]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).ends_with("pass: 2 of 2 cases within tolerance\n"));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["verdict"], "pass");
    assert_eq!(report["stages"].as_array().unwrap().len(), 56 + 70);
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

#[test]
fn two_dumps_are_compared_without_a_model() {
    let path = |name: &str| goldens().join(name).display().to_string();
    let run = |candidate: &str| {
        let (reference, candidate) = (path("bloom_fp32_tp1"), path(candidate));
        parity(&["diff", "--reference", &reference, "--candidate", &candidate])
    };
    let same = run("transformers_bloom_fp32_tp1");
    assert_eq!(same.status.code(), Some(0), "{}", stdout(&same));
    // Megatron recorded products without their bias there, and scores.
    assert!(
        stdout(&same)
            .contains("in the reference alone, or not comparable: h.0.self_attention.scores")
    );
    let other = run("bloom_fp32_tp2");
    assert_eq!(other.status.code(), Some(0), "{}", stdout(&other));
}

#[test]
fn fail_fast_stops_at_the_first_failure() {
    let copy = Copy::of("bloom_fp32_tp1");
    copy.replace(
        "hf/config.json",
        "\"layer_norm_epsilon\": 1e-05",
        "\"layer_norm_epsilon\": 1e-02",
    );
    let (golden, model) = (copy.golden(), copy.model());
    let args = [
        "diff",
        "--golden",
        golden.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
        "--fail-fast",
    ];
    let text = stdout(&parity(&args));
    assert!(
        text.contains("1 of 3 comparisons out of tolerance"),
        "{text}"
    );
}

#[test]
fn inspect_shows_goldens_models_and_arrays() {
    let mut text = String::new();
    for path in [
        "goldens/bloom_bf16_tp2",
        "goldens/bloom_bf16_tp2/hf",
        "goldens/bloom_bf16_tp2/tokens.npy",
        "goldens/bloom_bf16_tp2/checkpoint",
        "goldens/megatron_core_llama/checkpoints/torch_dist_tp2",
        "goldens/megatron_core_llama/hf",
    ] {
        let output = parity(&["inspect", path]);
        assert_eq!(output.status.code(), Some(0));
        text += &stdout(&output);
    }
    insta::assert_snapshot!(text);
    assert_eq!(parity(&["inspect", "src"]).status.code(), Some(2));
}

#[test]
fn help_names_every_option() {
    let mut text = String::new();
    for command in [
        &["--help"][..],
        &["diff", "--help"],
        &["convert", "--help"],
        &["import", "--help"],
        &["inspect", "--help"],
    ] {
        let output = parity(command);
        assert_eq!(output.status.code(), Some(0));
        text += &stdout(&output);
    }
    insta::assert_snapshot!(text);
    assert_eq!(parity(&["diff", "--no-such-option"]).status.code(), Some(2));
}

#[test]
fn the_readme_shows_what_is_printed() {
    trycmd::TestCases::new().case("README.md");
}
