//! What explanations say of references that were run in another way than they say, and of one defect at several stages.

use crate::common::{self, Copy, goldens};
use parity::diff::{Candidate, CaseOutcome, Modes, Options, Verdict, diff_candidate};
use parity::explain::Explanation;
use parity::golden::Golden;
use parity::tensor::DType;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn explained(golden: &Path, model: &Path) -> CaseOutcome {
    let opened = Golden::open(golden).expect("a golden");
    let dtype = Some(opened.manifest().dtype);
    let candidate = Candidate::open_as(model, dtype).expect("a model");
    let options = Options {
        modes: Modes::Isolated,
        explain: true,
        ..Options::default()
    };
    let case = common::case(golden, model);
    diff_candidate(&case, &opened, &candidate, &options, &mut |_| {}).expect("a comparison")
}

/// What is said of it, if it is one thing.
fn only(outcome: &CaseOutcome) -> &Explanation {
    assert_eq!(outcome.verdict(), Verdict::Fail);
    let [only] = outcome.explanations.as_slice() else {
        panic!("{:#?}", outcome.explanations);
    };
    assert!(only.complete, "{only:#?}");
    only
}

fn gpt2() -> std::path::PathBuf {
    goldens().join("megatron_core_gpt2_fp32_tp1/hf")
}

/// Of embeddings, probabilities and both residual streams: one cause, to the bit.
#[test]
fn dropout_that_was_on_is_one_cause() {
    for dtype in ["fp32", "bf16"] {
        let golden = goldens().join(format!("transformers_gpt2_{dtype}_dropout"));
        let outcome = explained(&golden, &gpt2());
        let only = only(&outcome);
        assert_eq!(
            only.causes[0].finding,
            "dropout of 0.1 was on in the reference's run"
        );
        assert_eq!(only.stages.len(), outcome.failures().count());
        assert_eq!(only.causes[0].after.unequal, 0);
    }
}

/// A golden that lost its mask shows what was masked.
#[test]
fn padding_without_a_mask_is_named() {
    for (name, model, places) in [
        (
            "transformers_gpt2_bf16_padded_left",
            "megatron_core_gpt2_fp32_tp1",
            "positions 0 to 4 of sequence 1, 0 to 8 of sequence 2 as padding",
        ),
        (
            "transformers_llama3_bf16_padded_right",
            "megatron_core_llama3_fp32_tp1",
            "positions 9 to 13 of sequence 1, 5 to 13 of sequence 2 as padding",
        ),
    ] {
        let copy = Copy::of(name);
        let manifest = copy.golden().join(Golden::MANIFEST);
        let text = fs::read_to_string(&manifest).expect("a manifest");
        let mut json: Value = serde_json::from_str(&text).expect("JSON");
        let entries = json.as_object_mut().expect("an object");
        entries.remove("attention_mask").expect("a mask");
        fs::write(&manifest, json.to_string()).expect("written");
        let outcome = explained(&copy.golden(), &goldens().join(model).join("hf"));
        let finding = &only(&outcome).causes[0].finding;
        assert!(finding.contains(places), "{finding}");
    }
}

/// A tied head shows what the embedding has, which is one cause.
#[test]
fn a_tied_head_is_wrong_where_its_embedding_is() {
    const ROW: usize = 40 * DType::F32.size();
    type Damage = fn(&mut [u8], usize);
    let shifted: Damage = |bytes, row| bytes.rotate_right(row);
    let damaged: Damage = |bytes, row| {
        let rows = bytes.len() / row;
        for at in (1..rows - 1).step_by(4) {
            bytes.copy_within((at + 1) * row..(at + 2) * row, at * row);
        }
    };
    for (damage, words) in [
        (
            shifted,
            "rows of the embedding lie 1 later than their tokens; logits reads the same weight",
        ),
        (
            damaged,
            "of wte.weight are not the reference's, the others are; logits reads the same weight",
        ),
    ] {
        let copy = Copy::of("megatron_core_gpt2_fp32_tp1");
        copy.edit_weights(|bytes, place| damage(&mut bytes[place("transformer.wte.weight")], ROW));
        let outcome = explained(&copy.golden(), &copy.model());
        let finding = &only(&outcome).causes[0].finding;
        assert!(finding.contains(words), "{finding}");
        assert_eq!(outcome.explanations[0].stages.len(), 2);
    }
}
