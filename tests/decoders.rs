//! Models of Llama's relatives: dumps as frameworks wrote them, and choices of experts.

use crate::common::{self, Copy, goldens};
use parity::arch::Framework;
use parity::case::Mode;
use parity::diff::Verdict;
use parity::golden::{Golden, Reference, import};
use parity::tensor::{Tensor, npy};
use serde_json::json;
use std::fs;
use std::path::Path;

/// Two ranks of megatron-core, each with its heads and its half of the MLP.
#[test]
fn a_dump_of_two_ranks_is_the_model() {
    let dumps = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps/megatron_core_qwen3_tp2");
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump");
    fs::create_dir(&dump).unwrap();
    for rank in ["rank0", "rank1"] {
        fs::create_dir(dump.join(rank)).unwrap();
        common::copy(&dumps.join(rank), &dump.join(rank));
    }
    let reference = goldens().join("transformers_qwen3_fp32");
    fs::copy(reference.join("tokens.npy"), dump.join("tokens.npy")).unwrap();
    let settings = json!({
        "dtype": "fp32", "tensor_parallel": 2, "num_layers": 3, "hidden_size": 40, "num_attention_heads": 4,
        "num_query_groups": 2, "kv_channels": 16, "ffn_hidden_size": 112, "normalization": "RMSNorm",
        "layernorm_epsilon": 1e-6, "add_bias_linear": false, "gated_linear_unit": true, "activation_func": "silu",
        "qk_layernorm": true, "position_embedding_type": "rope", "rotary_base": 1_000_000, "vocab_size": 512,
        "share_embeddings_and_output_weights": false,
    });
    fs::write(dump.join("config.json"), settings.to_string()).unwrap();
    let golden = folder.path().join("golden");
    let imported = import(&dump, Some(Framework::MegatronCore), &golden, false).unwrap();
    assert_eq!(imported.unmapped, ["decoder.layers.0.input"]);
    let outcome = common::run(&common::case(&golden, reference.join("hf")));
    assert_eq!(outcome.verdict(), Verdict::Pass);
    assert_eq!(outcome.coverage.compared, 23);
    let norm = |result: &&parity::diff::StageResult| result.stage.as_str().ends_with("k_norm");
    assert_eq!(outcome.stages.iter().filter(norm).count(), 2);
}

/// The places of a recorded choice, changed.
fn with_choice(golden: &Path, stage: &str, change: impl FnOnce(&mut [f32])) {
    let path = golden.join(format!("{stage}.npy"));
    let choice = npy::read(&path, None).unwrap();
    let mut values = choice.as_slice::<f32>().unwrap().to_vec();
    change(&mut values);
    let changed = Tensor::from_vec(choice.shape(), values).unwrap();
    npy::write(&path, &changed).unwrap();
}

/// A choice that no scores give fails as one, in either mode, and says by how much.
#[test]
fn a_wrong_choice_is_no_noise() {
    let stage = "layers.0.mlp.gate.indices";
    let copy = Copy::of("transformers_qwen3_moe_bf16");
    with_choice(&copy.golden(), stage, |choice| {
        // The experts of the first token that it has not.
        let others: Vec<f32> = (0..6)
            .map(|expert| expert as f32)
            .filter(|e| !choice[..3].contains(e))
            .collect();
        choice[..3].copy_from_slice(&others);
    });
    let golden = Golden::open(copy.golden()).unwrap();
    // The digest says that it was changed; what is recorded is what counts here.
    let manifest = common::with_blake3(&golden);
    fs::write(copy.golden().join("golden.json"), manifest.to_json()).unwrap();
    let outcome = common::run(&copy.case());
    let of = |mode: Mode| {
        let mut results = outcome.stages.iter();
        results
            .find(|result| result.stage.as_str() == stage && result.mode == mode)
            .unwrap()
    };
    for mode in [Mode::Isolated, Mode::Chained] {
        let result = of(mode);
        assert_eq!(result.verdict(), Verdict::Fail, "{mode}");
        let routing = result.routing.unwrap();
        assert_eq!(
            (routing.tokens, routing.wrong, routing.undecided),
            (18, 1, 0)
        );
        assert!(routing.wrong_margin > 0.1);
    }
}

/// Numbers of experts that do not exist are refused, by the stage.
#[test]
fn a_choice_of_no_expert_is_refused() {
    let copy = Copy::of("transformers_qwen3_moe_bf16");
    with_choice(&copy.golden(), "layers.0.mlp.gate.indices", |choice| {
        choice[0] = 6.5
    });
    let golden = Golden::open(copy.golden()).unwrap();
    let manifest = common::with_blake3(&golden);
    fs::write(copy.golden().join("golden.json"), manifest.to_json()).unwrap();
    let case = copy.case();
    let outcome = parity::diff::diff(&case, &parity::diff::Options::default(), &mut |_| {});
    let error = outcome.err().unwrap().to_string();
    assert!(
        error.contains("expected numbers of 6 experts, found 6.5"),
        "{error}"
    );
    assert!(error.contains("layers.0.mlp.gate.indices.npy"), "{error}");
}

/// What an expert gave lies where its tokens' choices have it, whichever framework wrote it.
#[test]
fn frameworks_agree_on_the_rows_of_experts() {
    let of = |golden: &str, stage: &str| {
        let golden = Golden::open(goldens().join(golden)).unwrap();
        let Ok(Some(Reference::Full(value))) = golden.reference(&stage.into()) else {
            panic!("{stage} is recorded");
        };
        value
    };
    let [ours, theirs] = [
        "megatron_core_mixtral_bf16_tp1",
        "transformers_mixtral_bf16_grouped",
    ];
    for stage in ["layers.0.mlp.gate.indices", "layers.0.mlp.experts"] {
        let [ours, theirs] = [ours, theirs].map(|golden| of(golden, stage).widened().unwrap());
        let pairs = ours
            .as_slice::<f64>()
            .unwrap()
            .iter()
            .zip(theirs.as_slice::<f64>().unwrap());
        let far = pairs.filter(|(a, b)| (*a - *b).abs() > 0.1).count();
        assert_eq!(far, 0, "{stage}");
    }
    assert_eq!(
        of(ours, "layers.0.mlp.experts.gate_proj").shape(),
        [2, 11, 2 * 88]
    );
}

/// Statistics are kept of everything but choices, and what is chained against them passes.
#[test]
fn statistics_hold_beside_choices() {
    let mut manifest = Golden::open(goldens().join("transformers_qwen3_moe_bf16"))
        .unwrap()
        .manifest()
        .clone();
    // Of two stages as they are, statistics of one would do.
    let is_choice = |stage: &str| stage.ends_with("gate.indices");
    manifest
        .stages
        .retain(|record| is_choice(record.stage.as_str()));
    assert_eq!(manifest.stages.len(), 2);
    let copy = Copy::of("transformers_qwen3_moe_bf16");
    fs::write(copy.golden().join("golden.json"), manifest.to_json()).unwrap();
    let outcome = common::run(&copy.case());
    assert_eq!(outcome.verdict(), Verdict::Pass);
    // A choice alone is no input of an isolated run.
    assert!(
        outcome
            .stages
            .iter()
            .all(|result| result.mode == Mode::Chained)
    );
}
