//! BLOOM on CPU: how close it is to what Megatron and transformers recorded, that it is the same
//! every time, and that what is wrong with a conversion shows at the stage where it is wrong.

use crate::common::{self, Copy, case, goldens, raw_dump, run, with_blake3};
use parity::arch::Framework;
use parity::case::{ArithmeticName, Mode};
use parity::diff::{CaseOutcome, Modes, Options, StageResult, Verdict, diff};
use parity::golden::{Golden, import};
use parity::op::Confidence;

const MEGATRON: [&str; 5] = [
    "bloom_fp32_tp1",
    "bloom_bf16_tp1",
    "bloom_fp16_tp1",
    "bloom_fp32_tp2",
    "bloom_bf16_tp2",
];

fn megatron_plan(name: &str) -> CaseOutcome {
    let mut case = case(goldens().join(name), goldens().join(name).join("hf"));
    case.arithmetic = Some(ArithmeticName::Megatron);
    run(&case)
}

fn stages(outcome: &CaseOutcome, mode: Mode) -> impl Iterator<Item = &StageResult> {
    outcome
        .stages
        .iter()
        .filter(move |result| result.mode == mode)
}

fn ends_with_any(result: &StageResult, endings: &[&str]) -> bool {
    endings
        .iter()
        .any(|ending| result.stage.as_str().ends_with(ending))
}

/// No false alarm: what is correct is within its rounding budget, in either arithmetic and with
/// either confidence, and as many half-precision elements differ as may.
#[test]
fn correct_models_are_within_their_budgets_in_both_arithmetics() {
    let names = MEGATRON.iter().chain(&[
        "transformers_bloom_fp32_tp1",
        "transformers_bloom_bf16_tp1",
        "transformers_bloom_fp16_tp1",
    ]);
    let mut runs = Vec::new();
    for name in names {
        for arithmetic in [ArithmeticName::Transformers, ArithmeticName::Megatron] {
            for confidence in [Confidence::Probabilistic, Confidence::Deterministic] {
                runs.push((name, arithmetic, confidence));
            }
        }
    }
    for (name, arithmetic, confidence) in common::sample(runs, 3) {
        let model = goldens()
            .join(name.trim_start_matches("transformers_"))
            .join("hf");
        let mut case = case(goldens().join(name), model);
        case.arithmetic = Some(arithmetic);
        let options = Options {
            modes: Modes::Isolated,
            confidence,
            ..Options::default()
        };
        let outcome = diff(&case, &options, &mut |_| {}).unwrap();
        let budgeted = outcome
            .stages
            .iter()
            .filter(|r| r.metrics.worst_ratio.is_some());
        assert_eq!(budgeted.count(), outcome.stages.len() - 1, "{name}");
        for result in &outcome.stages {
            assert_eq!(result.verdict(), Verdict::Pass, "{name} {}", result.stage);
        }
    }
}

/// Several causes at one stage are found one after another, and one cause at many layers once.
#[test]
fn several_causes_are_explained_one_after_another() {
    let copy = Copy::of("bloom_fp32_tp1");
    copy.edit_weights(|bytes, place| {
        for layer in 0..2 {
            // The two halves of the weight's rows swapped, and the bias doubled.
            let stage = format!("h.{layer}.self_attention.query_key_value");
            let weight = &mut bytes[place(&format!("transformer.{stage}.weight"))];
            let half = weight.len() / 2;
            weight.rotate_left(half);
            for value in bytes[place(&format!("transformer.{stage}.bias"))].chunks_mut(4) {
                let doubled = 2.0 * f32::from_le_bytes(value.try_into().unwrap());
                value.copy_from_slice(&doubled.to_le_bytes());
            }
        }
    });
    let options = Options {
        explain: true,
        modes: Modes::Isolated,
        ..Options::default()
    };
    let outcome = diff(&copy.case(), &options, &mut |_| {}).unwrap();
    let [explanation] = outcome.explanations.as_slice() else {
        panic!("{:?}", outcome.explanations);
    };
    assert_eq!(explanation.stages.len(), 2);
    assert!(explanation.complete, "{explanation:?}");
    let findings: Vec<&str> = explanation
        .causes
        .iter()
        .map(|c| c.finding.as_str())
        .collect();
    assert_eq!(findings.len(), 2, "{findings:?}");
    let names = |part: &str| findings.iter().any(|finding| finding.contains(part));
    assert!(names("bias is twice"), "{findings:?}");
    assert!(names("2 ranks"), "{findings:?}");
}

/// A weight that is no number is the candidate's fault, wherever it shows, and no cause is made up.
#[test]
fn a_nan_in_a_weight_fails_its_stage_and_is_not_explained_away() {
    for (name, bits) in [
        ("h.0.self_attention.query_key_value.bias", f32::NAN),
        ("h.0.mlp.dense_h_to_4h.bias", f32::NAN),
        ("h.0.mlp.dense_h_to_4h.weight", f32::INFINITY),
        ("ln_f.weight", f32::NAN),
    ] {
        let copy = Copy::of("bloom_fp32_tp1");
        copy.edit_weights(|bytes, place| {
            let start = place(&format!("transformer.{name}")).start;
            bytes[start..start + 4].copy_from_slice(&bits.to_le_bytes());
        });
        let options = Options {
            explain: true,
            modes: Modes::Isolated,
            ..Options::default()
        };
        let outcome = diff(&copy.case(), &options, &mut |_| {}).unwrap();
        let first = outcome.first_failure().unwrap();
        assert!(
            name.starts_with(first.stage.as_str()),
            "{name}: {}",
            first.stage
        );
        let of_first = outcome
            .explanations
            .iter()
            .find(|e| e.stages.contains(&first.stage));
        assert!(
            of_first.is_none_or(|e| e.causes.is_empty() || e.complete),
            "{of_first:?}"
        );
    }
}

#[test]
fn what_nothing_explains_is_narrowed_down() {
    let copy = Copy::of("bloom_fp32_tp1");
    // What was recorded at one position is of nobody.
    let stage = Golden::open(copy.golden())
        .unwrap()
        .file_of(&"h.1.mlp.dense_4h_to_h".into());
    let file = stage.file_name().unwrap().to_string_lossy().into_owned();
    copy.edit(&file, true, |bytes| {
        let start = bytes.len() - 20 * 64 * 4;
        let row = &mut bytes[start + 5 * 64 * 4..start + 6 * 64 * 4];
        for (index, value) in row.chunks_mut(4).enumerate() {
            let odd = ((index * 37 % 101) as f32 - 50.0) * 1e-2;
            value.copy_from_slice(&odd.to_le_bytes());
        }
    });
    let options = Options {
        explain: true,
        modes: Modes::Isolated,
        ..Options::default()
    };
    let outcome = diff(&copy.case(), &options, &mut |_| {}).unwrap();
    let explanation = &outcome.explanations[0];
    assert!(
        !explanation.complete && explanation.causes.is_empty(),
        "{explanation:?}"
    );
    insta::assert_snapshot!(explanation.hints.join("\n"), @r"
    the inputs are the reference's own: the difference arises here
    100 % of the squared difference lies in 1 of 20 positions (5)
    the difference has rank one (100 % of its square)
    ");
}

#[test]
fn fp32_is_within_a_few_roundoffs_at_every_stage() {
    for (name, plan) in [
        ("bloom_fp32_tp1", ArithmeticName::Transformers),
        ("bloom_fp32_tp1", ArithmeticName::Megatron),
        ("bloom_fp32_tp2", ArithmeticName::Megatron),
    ] {
        let mut case = case(goldens().join(name), goldens().join(name).join("hf"));
        case.arithmetic = Some(plan);
        let outcome = run(&case);
        assert_eq!(outcome.coverage.compared, 28);
        for result in stages(&outcome, Mode::Isolated) {
            let wide = ends_with_any(result, &["dense_h_to_4h", "dense_4h_to_h"]);
            let allowed = if wide { 5e-7 } else { 2e-7 };
            let rel = result.metrics.relative_frobenius;
            assert!(rel <= allowed, "{name} {}: {rel:e}", result.stage);
        }
        let logits = stages(&outcome, Mode::Chained).last().unwrap();
        assert_eq!(logits.stage.as_str(), "logits");
        assert!(logits.metrics.max_abs_difference() <= 1e-6);
    }
}

#[test]
fn half_types_in_megatrons_arithmetic_have_megatrons_bits() {
    for (name, allowed) in [
        ("bloom_bf16_tp1", 1e-3),
        ("bloom_bf16_tp2", 1e-3),
        ("bloom_fp16_tp1", 5e-3),
    ] {
        let outcome = megatron_plan(name);
        let mut all_equal = 0;
        for result in stages(&outcome, Mode::Isolated) {
            let unequal = result.metrics.unequal_fraction();
            assert!(unequal <= allowed, "{name} {}: {unequal}", result.stage);
            all_equal += usize::from(result.metrics.unequal == 0);
            // Copies, single adds and op-by-op activations leave no room at all.
            let last = result.stage.as_str().rsplit('.').next().unwrap();
            let block = last.parse::<usize>().is_ok();
            let rounded_alike = ["word_embeddings", "self_attention", "gelu"].contains(&last);
            if block || rounded_alike || last == "word_embeddings_layernorm" {
                assert_eq!(result.metrics.unequal, 0, "{name} {}", result.stage);
            }
        }
        assert!(
            all_equal > 28 / 2,
            "{name}: only {all_equal} of 28 stages have all bits"
        );
    }
}

#[test]
fn half_types_in_transformers_arithmetic_have_transformers_bits() {
    for (name, isolated, chained) in [("bf16", 1e-3, 1e-2), ("fp16", 5e-3, 1e-2)] {
        let golden = goldens().join(format!("transformers_bloom_{name}_tp1"));
        let model = goldens().join(format!("bloom_{name}_tp1/hf"));
        let outcome = run(&case(golden, model));
        for result in &outcome.stages {
            let unequal = result.metrics.unequal_fraction();
            let allowed = if result.mode == Mode::Isolated {
                isolated
            } else {
                chained
            };
            assert!(
                unequal <= allowed,
                "{name} {} {}: {unequal}",
                result.stage,
                result.mode
            );
            assert!(
                result.plan_difference().is_none(),
                "{name} {}",
                result.stage
            );
        }
    }
}

#[test]
fn the_report_names_exactly_the_stages_that_round_elsewhere() {
    for name in MEGATRON {
        let outcome = run(&case(goldens().join(name), goldens().join(name).join("hf")));
        assert_eq!(outcome.verdict(), Verdict::Pass);
        for result in stages(&outcome, Mode::Isolated) {
            let linear = ["self_attention.dense", "dense_h_to_4h", "dense_4h_to_h"];
            let expected = ends_with_any(result, &linear);
            assert_eq!(
                result.plan_difference().is_some(),
                expected,
                "{name} {}",
                result.stage
            );
            let half = name.contains("16");
            if half && expected {
                let unequal = result.metrics.unequal_fraction();
                assert!(unequal > 0.05, "{name} {}: {unequal}", result.stage);
            } else if half {
                let unequal = result.metrics.unequal_fraction();
                assert!(unequal <= 5e-3, "{name} {}: {unequal}", result.stage);
            }
        }
    }
}

#[test]
fn results_have_the_same_bits_with_any_number_of_threads() {
    for name in ["bloom_fp32_tp1", "bloom_bf16_tp2"] {
        let measure = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let outcome = pool.install(|| megatron_plan(name));
            let metrics = outcome.stages.into_iter().map(|result| result.metrics);
            metrics.collect::<Vec<_>>()
        };
        let one = measure(1);
        assert_eq!(one, measure(2));
        assert_eq!(one, measure(1));
    }
}

/// The verdict must be a failure, found where the conversion is wrong.
fn assert_first_failure(copy: &Copy, stage: &str) {
    let outcome = run(&copy.case());
    let first = outcome
        .first_failure()
        .unwrap_or_else(|| panic!("{stage}: not caught"));
    assert_eq!((first.stage.as_str(), first.mode), (stage, Mode::Isolated));
}

#[test]
fn one_wrong_weight_is_found_in_its_layer() {
    let copy = Copy::of("bloom_fp32_tp1");
    copy.edit_weights(|bytes, place| {
        let start = place("transformer.h.1.mlp.dense_4h_to_h.weight").start + 4 * 1000;
        let weight = f32::from_le_bytes(bytes[start..start + 4].try_into().unwrap());
        bytes[start..start + 4].copy_from_slice(&(weight * 1.05).to_le_bytes());
    });
    assert_first_failure(&copy, "h.1.mlp.dense_4h_to_h");
}

#[test]
fn one_wrong_bias_is_found_though_the_reference_has_none_there() {
    let copy = Copy::of("bloom_fp32_tp1");
    copy.edit_weights(|bytes, place| {
        let start = place("transformer.h.0.self_attention.dense.bias").start;
        bytes[start..start + 4].copy_from_slice(&1.0_f32.to_le_bytes());
    });
    // The recorded product is compared with the model's own bias added to it, so the wrong bias shows at
    // the sum after it.
    assert_first_failure(&copy, "h.0.self_attention");
}

#[test]
fn swapped_layers_are_found_at_the_first_of_them() {
    for name in ["bloom_fp32_tp1", "bloom_bf16_tp1"] {
        let copy = Copy::of(name);
        let tensors = copy.tensors();
        copy.edit_weights(|bytes, place| {
            for first in tensors
                .iter()
                .filter(|name| name.starts_with("transformer.h.0."))
            {
                let second = first.replace("h.0.", "h.1.");
                let (a, b) = (place(first), place(&second));
                let kept = bytes[a.clone()].to_vec();
                bytes.copy_within(b.clone(), a.start);
                bytes[b].copy_from_slice(&kept);
            }
        });
        assert_first_failure(&copy, "h.0.input_layernorm");
    }
}

#[test]
fn a_wrong_eps_is_found_at_the_first_norm() {
    let copy = Copy::of("bloom_fp32_tp1");
    copy.replace(
        "hf/config.json",
        "\"layer_norm_epsilon\": 1e-05",
        "\"layer_norm_epsilon\": 1e-06",
    );
    assert_first_failure(&copy, "word_embeddings_layernorm");
    let notes = run(&copy.case()).notes;
    assert!(
        notes[0].contains("layer_norm_epsilon 1e-6, the reference has 0.00001"),
        "{notes:?}"
    );
}

#[test]
fn statistics_are_a_reference_too() {
    let folder = tempfile::tempdir().unwrap();
    let golden = goldens().join("bloom_fp32_tp2");
    let statistics = folder.path().join("statistics");
    let dump = raw_dump(&golden);
    let imported = import(
        dump.path(),
        Some(Framework::MegatronDeepspeed),
        &statistics,
        true,
    )
    .unwrap();
    assert_eq!(imported.manifest.stages.len(), 28);
    let outcome = run(&case(&statistics, golden.join("hf")));
    assert_eq!(outcome.verdict(), Verdict::Pass);
    assert!(
        outcome
            .stages
            .iter()
            .all(|result| result.mode == Mode::Chained)
    );
    assert!(outcome.notes[0].contains("statistics only"));
    let logits = outcome.stages.last().unwrap();
    assert!(logits.metrics.statistics.vocab_shard_mean.unwrap() < 1e-8);

    let copy = Copy::of("bloom_fp32_tp2");
    copy.replace(
        "hf/config.json",
        "\"layer_norm_epsilon\": 1e-05",
        "\"layer_norm_epsilon\": 1e-02",
    );
    let outcome = run(&case(&statistics, copy.model()));
    assert_eq!(
        outcome.first_failure().unwrap().stage.as_str(),
        "word_embeddings_layernorm"
    );
}

#[test]
fn importing_a_dump_gives_the_golden_again() {
    for name in ["bloom_fp32_tp1", "bloom_bf16_tp2", "bloom_fp16_tp1"] {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("golden");
        let dump = raw_dump(&goldens().join(name));
        let imported = import(
            dump.path(),
            Some(Framework::MegatronDeepspeed),
            &output,
            false,
        )
        .unwrap();
        let kept = Golden::open(goldens().join(name)).unwrap();
        assert_eq!(imported.manifest, with_blake3(&kept));
        assert_eq!(imported.unmapped, [""; 0]);
        // Never over what is there.
        let again = import(
            dump.path(),
            Some(Framework::MegatronDeepspeed),
            &output,
            false,
        );
        assert!(
            again
                .unwrap_err()
                .to_string()
                .contains("a new or empty folder")
        );
    }
}

#[test]
fn an_incomplete_or_contradictory_dump_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("golden");
    let dump = raw_dump(&goldens().join("bloom_bf16_tp2"));
    let refuse = |expected: &str| {
        let error = import(
            dump.path(),
            Some(Framework::MegatronDeepspeed),
            &output,
            false,
        )
        .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    };
    // Another value under a second name of the same stage.
    let dumped = |name: &str| {
        let mut files = dump
            .path()
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files
            .find(|path| path.to_str().unwrap().contains(name))
            .unwrap()
    };
    let second = [0, 1].map(|rank| {
        let file = dump
            .path()
            .join(format!("050.3.self_attention.output.tp{rank}.npy"));
        std::fs::copy(
            dumped(&format!(".3.post_attention_layernorm.input.tp{rank}")),
            &file,
        )
        .unwrap();
        file
    });
    refuse("the values of 3.self_attention.dense.output, the same stage h.0.self_attention.dense");
    for (rank, file) in second.iter().enumerate() {
        std::fs::copy(
            dumped(&format!("embed.word_embeddings.norm.input.tp{rank}")),
            file,
        )
        .unwrap();
    }
    refuse("h.0.self_attention.dense: expected shape [1, 20, 64], batch first");
    std::fs::copy(dumped(".3.mlp.dense_h_to_4h.output.tp0"), &second[0]).unwrap();
    refuse("050.3.self_attention.output.tp1.npy: expected shape [20, 1, 128]");
    std::fs::remove_file(&second[0]).unwrap();
    refuse("of 2 tensor-parallel ranks, found ranks [1]");
}
