//! Two dumps of any model against each other, in whatever they lie.

use crate::common::torch::{self, Py, dict, file};
use crate::common::{Copy, goldens};
use parity::case::{CaseFile, Rule, Rules};
use parity::compare::{Bound, Tolerance};
use parity::diff::{CaseOutcome, Options, Verdict, diff_case, diff_paths};
use parity::dump::{Dump, NameMap, Pairs};
use parity::tensor::{DType, Tensor, npy};
use safetensors::tensor::TensorView;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Values that look random, a name for each.
fn values(names: &[&str], scale: f32) -> Vec<(String, Vec<f32>)> {
    let value = |seed: usize| {
        let mix = (seed as u32).wrapping_mul(2_654_435_761).rotate_left(13) ^ 0x9e37_79b9;
        (mix.wrapping_mul(2_246_822_519) >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let of = |number: usize| {
        (0..24)
            .map(|index| scale * value(100 * number + index))
            .collect()
    };
    let names = names.iter().enumerate();
    names
        .map(|(number, name)| ((*name).to_owned(), of(number)))
        .collect()
}

const SHAPE: [usize; 3] = [2, 3, 4];
const NAMES: [&str; 4] = ["embed", "layers.0.mlp", "layers.2.mlp", "layers.10.mlp"];

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_vec(&SHAPE, values.to_vec()).expect("as many")
}

fn arrays(folder: &Path, all: &[(String, Vec<f32>)]) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder");
    for (name, values) in all {
        npy::write(&folder.join(format!("{name}.npy")), &tensor(values)).expect("written");
    }
    folder.to_owned()
}

fn numbered(folder: &Path, all: &[(String, Vec<f32>)]) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder");
    for (number, (name, values)) in all.iter().enumerate() {
        let path = folder.join(format!("{number:03}.model.{name}.output.npy"));
        npy::write(&path, &tensor(values)).expect("written");
    }
    folder.to_owned()
}

fn safetensors(path: &Path, all: &[(String, Vec<f32>)]) -> PathBuf {
    let bytes = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    let data: Vec<(String, Vec<u8>)> = all
        .iter()
        .map(|(name, v)| (name.clone(), bytes(v)))
        .collect();
    let views = data.iter().map(|(name, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, SHAPE.to_vec(), bytes);
        (name.clone(), view.expect("as large"))
    });
    fs::write(
        path,
        ::safetensors::serialize(views, None).expect("safetensors"),
    )
    .expect("written");
    path.to_owned()
}

fn saved(values: &[f32]) -> Py {
    let bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Py::Tensor(torch::Tensor::new("FloatStorage", &[2, 3, 4], bytes))
}

fn torch_file(path: &Path, all: &[(String, Vec<f32>)]) -> PathBuf {
    let entries = all
        .iter()
        .map(|(name, values)| (name.clone(), saved(values)));
    fs::write(path, file(&dict(entries))).expect("written");
    path.to_owned()
}

fn archive(path: &Path, all: &[(String, Vec<f32>)]) -> PathBuf {
    let folder = tempfile::tempdir().expect("a folder");
    let members = all.iter().map(|(name, values)| {
        let path = folder.path().join("x.npy");
        npy::write(&path, &tensor(values)).expect("written");
        (format!("{name}.npy"), fs::read(path).expect("an array"))
    });
    let members: Vec<(String, Vec<u8>)> = members.collect();
    fs::write(path, torch::zip(&members)).expect("written");
    path.to_owned()
}

fn compared(reference: &Path, candidate: &Path, rules: &Rules) -> parity::Result<CaseOutcome> {
    let options = Options::default();
    diff_paths([reference, candidate], None, rules, &options, &mut |_| {})
}

fn with_map([reference, candidate]: [&Path; 2], map: &Path) -> CaseOutcome {
    let map = NameMap::open(map).expect("a map");
    let (rules, options) = (Rules::default(), Options::default());
    diff_paths(
        [reference, candidate],
        Some(&map),
        &rules,
        &options,
        &mut |_| {},
    )
    .expect("compared")
}

fn verdict(reference: &Path, candidate: &Path) -> Verdict {
    compared(reference, candidate, &Rules::default())
        .expect("compared")
        .verdict()
}

#[test]
fn containers_mix() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let all = values(&NAMES, 1.0);
    let dumps = [
        arrays(&at("arrays"), &all),
        numbered(&at("numbered"), &all),
        safetensors(&at("x.safetensors"), &all),
        torch_file(&at("x.pt"), &all),
        archive(&at("x.npz"), &all),
    ];
    let mut other = all.clone();
    other[2].1.iter_mut().for_each(|value| *value *= 1.03);
    let wrong = torch_file(&at("wrong.pt"), &other);
    for reference in &dumps {
        for candidate in &dumps {
            let outcome = compared(reference, candidate, &Rules::default()).expect("compared");
            assert_eq!(outcome.verdict(), Verdict::Pass);
            assert_eq!(outcome.coverage.compared, NAMES.len());
        }
        let outcome = compared(reference, &wrong, &Rules::default()).expect("compared");
        let first = outcome.first_failure().expect("a failure");
        assert!(
            first.stage.as_str().contains("layers.2.mlp"),
            "{}",
            first.stage
        );
        assert!(
            outcome.notes[0].contains("stands out"),
            "{}",
            outcome.notes[0]
        );
    }
}

/// Of a golden the stages, by their own names or those of the modules they were dumped from.
#[test]
fn goldens_are_dumps_too() {
    let golden = goldens().join("transformers_llama3_bf16");
    let raw = crate::common::raw_dump(&golden);
    let outcome = compared(&golden, raw.path(), &Rules::default()).expect("compared");
    assert_eq!(outcome.verdict(), Verdict::Pass);
    assert_eq!(outcome.coverage.unmatched, []);
}

/// A stage that is much farther off than all before it stands out, whatever its depth would explain.
#[test]
fn what_stands_out_fails_however_deep_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let names: Vec<String> = (0..60).map(|layer| format!("layers.{layer}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let halves = |path: &Path, off: &dyn Fn(usize) -> f32| {
        fs::create_dir_all(path).expect("a folder");
        for (layer, (name, values)) in values(&names, 1.0).into_iter().enumerate() {
            let signs = values.iter().enumerate();
            let changed = signs.map(|(index, value)| {
                let sign = if index % 2 == 0 { 1.0 } else { -1.0 };
                value * (1.0 + sign * off(layer))
            });
            let tensor = tensor(&changed.collect::<Vec<f32>>())
                .cast(DType::Bf16)
                .expect("a float");
            npy::write(&path.join(format!("{name}.npy")), &tensor).expect("written");
        }
        path.to_owned()
    };
    let at = |name: &str| folder.path().join(name);
    let reference = halves(&at("a"), &|_| 0.0);
    // Noise that grows with the root of the depth, and a jump to 6 % where depth alone would explain 12 %.
    let noise = |layer: usize| 0.002 * ((layer + 1) as f32).sqrt();
    let grown = halves(&at("b"), &noise);
    let jump = halves(&at("c"), &|layer| {
        if layer >= 50 { 0.06 } else { noise(layer / 10) }
    });
    assert_eq!(verdict(&reference, &grown), Verdict::Pass);
    let outcome = compared(&reference, &jump, &Rules::default()).expect("compared");
    assert_eq!(
        outcome.first_failure().expect("a failure").stage.as_str(),
        "layers.50"
    );
}

#[test]
fn a_wider_reference_holds_a_narrower_candidate_to_its_own_type() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = values(&NAMES, 1.0);
    let wide = arrays(&folder.path().join("wide"), &all);
    let narrow = folder.path().join("narrow");
    fs::create_dir_all(&narrow).expect("a folder");
    for (name, values) in &all {
        let half = tensor(values).cast(DType::Bf16).expect("a float");
        npy::write(&narrow.join(format!("{name}.npy")), &half).expect("written");
    }
    let outcome = compared(&wide, &narrow, &Rules::default()).expect("compared");
    assert_eq!(outcome.verdict(), Verdict::Fail);
    assert!(
        outcome
            .notes
            .iter()
            .any(|note| note.contains("held to fp32"))
    );
    assert_eq!(verdict(&narrow, &wide), Verdict::Pass);
}

#[test]
fn bounds_that_need_a_plan_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let dump = arrays(&folder.path().join("a"), &values(&NAMES, 1.0));
    for bound in [Bound::Rounding, Bound::Flips(1e-6)] {
        let rules = Rules {
            rules: vec![Rule {
                stages: parity::case::Pattern::all(),
                device: None,
                mode: None,
                tolerance: Tolerance {
                    bounds: vec![bound],
                },
                origin: "--tolerance".into(),
            }],
        };
        let error = compared(&dump, &dump, &rules)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("two dumps have none"), "{error}");
    }
}

#[test]
fn integers_have_to_be_equal() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, tokens: [i64; 3]| {
        let path = folder.path().join(name);
        npy::write(
            &path,
            &Tensor::from_vec(&[1, 3], tokens.to_vec()).expect("three"),
        )
        .expect("written");
        path
    };
    fs::create_dir(folder.path().join("a")).expect("a folder");
    fs::create_dir(folder.path().join("b")).expect("a folder");
    let a = write("a/tokens.npy", [1, 2, 3]);
    let b = write("b/tokens.npy", [1, 2, 4]);
    assert_eq!(verdict(&a, &a), Verdict::Pass);
    assert_eq!(verdict(&a, &b), Verdict::Fail);
}

#[test]
fn a_map_is_proposed_and_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let all = values(&NAMES, 1.0);
    let renamed = all.iter().map(|(name, values)| {
        let name = name
            .replace("layers.", "blk_")
            .replace(".mlp", "_ffn")
            .replace("embed", "wte");
        (name, values.clone())
    });
    let renamed: Vec<(String, Vec<f32>)> = renamed.collect();
    let (a, b) = (arrays(&at("a"), &all), torch_file(&at("b.pt"), &renamed));
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_parity"));
        command.current_dir(folder.path()).arg("diff").args(args);
        command.output().expect("parity runs")
    };
    let parity = |more: &[&str]| command(&[&["a", "b.pt"], more].concat());
    let refused = parity(&[]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(error.contains("give --map names.json"), "{error}");
    for said in [
        "4 pairs of names proposed in names.json",
        "4 comparisons of 4 stages",
    ] {
        // The first run writes the map, the second reads it.
        let done = parity(&["--map", "names.json"]);
        let report = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{report}");
        assert!(report.contains(said), "{report}");
    }
    // Where nothing is near nothing is proposed, and nothing is written.
    let far = values(&["x", "y"], 7.0);
    torch_file(&at("far.pt"), &far);
    let refused = command(&["a", "far.pt", "--map", "far.json"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        error.contains("write one by hand") && !at("far.json").exists(),
        "{error}"
    );
    let map = NameMap::open(&at("names.json")).expect("a map");
    let (a, b) = (
        Dump::open(&a).expect("a dump"),
        Dump::open(&b).expect("a dump"),
    );
    let pairs = Pairs::new(&a, &b, &map).expect("pairs");
    let all = pairs
        .pairs
        .iter()
        .map(|(ours, theirs)| format!("{} {}", ours.name, theirs.name));
    let expected = [
        "embed wte",
        "layers.0.mlp blk_0_ffn",
        "layers.2.mlp blk_2_ffn",
        "layers.10.mlp blk_10_ffn",
    ];
    assert_eq!(all.collect::<Vec<_>>(), expected);
}

#[test]
fn two_dumps_are_a_case() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = values(&NAMES, 1.0);
    arrays(&folder.path().join("a"), &all);
    safetensors(&folder.path().join("b.safetensors"), &all);
    let case = folder.path().join("two.toml");
    let text = "reference = \"a\"\ncandidate = \"b.safetensors\"\n[[tolerance]]\nstages = \"*\"\nexact = true\n";
    fs::write(&case, text).expect("written");
    parity::assert_parity(&case);
    let opened = CaseFile::open(&case).expect("a case");
    let outcome = diff_case(&opened, &Options::default(), &mut |_| {}).expect("compared");
    assert_eq!(
        (outcome.name.as_str(), outcome.verdict()),
        ("two", Verdict::Pass)
    );
    assert!(opened.of_model().is_err());
    fs::write(&case, "reference = \"a\"\nmodel = \"b\"\n").expect("written");
    let error = CaseFile::open(&case).expect_err("refused").to_string();
    assert!(error.contains("found model, reference"), "{error}");
}

/// Files named by fields, values beside what they are, ranks joined as their dims say.
#[test]
fn dumps_of_sglangs_dumper_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = values(&["embed", "q", "q"], 1.0);
    let write = |folder: &Path, name: &str, values: &[f32], shape: &[i64], dims: &str| {
        fs::create_dir_all(folder).expect("a folder");
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let tensor = Py::Tensor(torch::Tensor::new("FloatStorage", shape, bytes));
        let meta = dict([("dims".to_owned(), torch::text(dims))]);
        let root = dict([("value".to_owned(), tensor), ("meta".to_owned(), meta)]);
        fs::write(folder.join(format!("{name}.pt")), file(&root)).expect("written");
    };
    let one = folder.path().join("one");
    let two = folder.path().join("two");
    for (layer, (name, values)) in all.iter().enumerate() {
        let fields =
            format!("step=0___rank=0___dump_index={layer}___name={name}___layer_id={layer}");
        write(&one, &fields, values, &[2, 3, 4], "b s h[tp]");
        // The last axis over two ranks, in another order of the fields; the embedding on both.
        for rank in 0..2 {
            let half = values
                .chunks(4)
                .flat_map(|row| row[2 * rank..2 * rank + 2].to_vec());
            let half: Vec<f32> = half.collect();
            let fields = format!(
                "name={name}___layer_id={layer}___rank={rank}___dump_index={layer}___step=0"
            );
            match layer {
                0 => write(&two, &fields, values, &[2, 3, 4], "b s h"),
                _ => write(&two, &fields, &half, &[2, 3, 2], "b s h[tp]"),
            }
        }
    }
    let outcome = compared(&one, &two, &Rules::default()).expect("compared");
    assert_eq!(outcome.verdict(), Verdict::Pass);
    let stages: Vec<&str> = outcome
        .stages
        .iter()
        .map(|result| result.stage.as_str())
        .collect();
    assert_eq!(stages, ["embed.layer_id.0", "q.layer_id.1", "q.layer_id.2"]);
    // What divides a tensor otherwise is not guessed, and can be left out.
    let other = folder.path().join("other");
    for (name, dims) in [("embed", "t[cp:zigzag] s h"), ("norm", "b s h")] {
        for rank in 0..2 {
            let fields = format!("step=0___rank={rank}___dump_index=0___name={name}");
            write(&other, &fields, &all[0].1, &[2, 3, 4], dims);
        }
    }
    let error = compared(&other, &other, &Rules::default())
        .expect_err("refused")
        .to_string();
    assert!(error.contains("null for its name"), "{error}");
    let map = folder.path().join("map.json");
    fs::write(&map, r#"{"embed": null}"#).expect("written");
    let outcome = with_map([&other, &other], &map);
    assert_eq!(outcome.verdict(), Verdict::Pass);
    assert_eq!(outcome.coverage.skipped, ["embed".into()]);
}

fn real(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/dumps")
        .join(name)
}

/// Megatron's ranks and transformers have other names, shapes and orders of axes; no plan of the model is needed.
#[test]
fn ranks_of_megatron_are_compared_with_transformers() {
    let (ranks, whole) = (real("megatron_core_qwen3_tp2"), real("transformers_qwen3"));
    let opened = [&ranks, &whole].map(|path| Dump::open(path).expect("a dump"));
    let pairs = Pairs::new(&opened[0], &opened[1], &NameMap::default()).expect("pairs");
    let proposed = NameMap::proposed(&pairs).expect("a map");
    let kept = real("qwen3.json");
    assert_eq!(proposed, NameMap::open(&kept).expect("a map"));
    let outcome = with_map([&ranks, &whole], &kept);
    assert_eq!(outcome.verdict(), Verdict::Pass);
    let said = |words: &str| outcome.notes.iter().any(|note| note.contains(words));
    assert!(
        said("of several ranks") && said("swapped"),
        "{:?}",
        outcome.notes
    );
    assert_eq!(outcome.coverage.compared, proposed.len());

    // Ranks against one of their own rank, in whatever order they are read.
    let outcome = compared(&ranks, &ranks, &Rules::default()).expect("compared");
    assert_eq!(outcome.verdict(), Verdict::Pass);
    assert!(outcome.stages.len() > proposed.len());

    // What is off in one rank's part is off.
    let folder = tempfile::tempdir().expect("a folder");
    for rank in ["rank0", "rank1"] {
        fs::create_dir(folder.path().join(rank)).expect("a folder");
        for entry in fs::read_dir(ranks.join(rank)).expect("a rank").flatten() {
            let copy = folder.path().join(rank).join(entry.file_name());
            let value = npy::read(entry.path(), None).expect("an array");
            let is_off = rank == "rank1" && copy.to_string_lossy().contains("linear_fc1");
            let wide = value.as_slice::<f32>().expect("fp32").iter();
            let wide = wide.map(|x| if is_off { 1.01 * x } else { *x });
            let value = Tensor::from_vec(value.shape(), wide.collect()).expect("as many");
            npy::write(&copy, &value).expect("written");
        }
    }
    let outcome = compared(&ranks, folder.path(), &Rules::default()).expect("compared");
    let first = outcome.first_failure().expect("a failure");
    assert!(
        first.stage.as_str().contains("linear_fc1"),
        "{}",
        first.stage
    );
}

/// A GPU's runs of a mixture of experts: its router is in fp32 whatever the model is, and its experts' inner values
/// have the shapes of how they are computed.
#[test]
fn a_gpus_runs_of_a_mixture_of_experts_are_compared() {
    let (bf16, fp32) = (real("h200_deepseekv3_bf16"), real("h200_deepseekv3_fp32"));
    let outcome = compared(&bf16, &fp32, &Rules::default()).expect("compared");
    assert_eq!(outcome.verdict(), Verdict::Pass, "{:?}", outcome.notes);
    assert_eq!(verdict(&fp32, &bf16), Verdict::Fail);
    let grouped = real("h200_deepseekv3_bf16_grouped_mm");
    let outcome = compared(&bf16, &grouped, &Rules::default()).expect("compared");
    assert!(outcome.first_failure().is_none());
    let incomparable: Vec<&str> = outcome
        .coverage
        .incomparable
        .iter()
        .map(|of| of.stage.as_str())
        .collect();
    assert_eq!(incomparable, ["model.layers.1.mlp.experts.act_fn.output"]);
    assert_eq!(outcome.verdict(), Verdict::Fail);
}

/// A vocabulary that one side pads is compared over what both have; rows of other lengths are not.
#[test]
fn padded_rows_are_compared_over_what_both_have() {
    let folder = tempfile::tempdir().expect("a folder");
    let logits = |name: &str, columns: usize| {
        let path = folder.path().join(name);
        let value = |index: usize| ((index / columns * 31 + index % columns * 7) % 97) as f32;
        let all = (0..6 * columns).map(value).collect::<Vec<f32>>();
        npy::write(
            &path,
            &Tensor::from_vec(&[2, 3, columns], all).expect("as many"),
        )
        .expect("written");
        path
    };
    let (whole, padded, other) = (
        logits("a.npy", 100),
        logits("b.npy", 128),
        logits("c.npy", 120),
    );
    fs::write(folder.path().join("map.json"), r#"{"a": "b"}"#).expect("written");
    let outcome = with_map([&whole, &padded], &folder.path().join("map.json"));
    assert_eq!(outcome.verdict(), Verdict::Pass);
    assert!(
        outcome
            .notes
            .iter()
            .any(|note| note.contains("compared over what both have"))
    );
    fs::write(folder.path().join("map.json"), r#"{"a": "c"}"#).expect("written");
    let outcome = with_map([&whole, &other], &folder.path().join("map.json"));
    assert_eq!(outcome.verdict(), Verdict::Fail);
}

/// One tensor of another shape is one that cannot be compared, not the end of the comparison; nor a pass.
#[test]
fn what_cannot_be_compared_fails_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let all = values(&NAMES, 1.0);
    let (ours, theirs) = (arrays(&at("a"), &all), arrays(&at("b"), &all));
    let wide = Tensor::from_vec(&[48], vec![1.0_f32; 48]).expect("as many");
    npy::write(&theirs.join("layers.0.mlp.npy"), &wide).expect("written");
    let mut nan = all[2].1.clone();
    nan[3] = f32::NAN;
    npy::write(&ours.join("layers.2.mlp.npy"), &tensor(&nan)).expect("written");
    let outcome = compared(&ours, &theirs, &Rules::default()).expect("compared");
    assert_eq!(outcome.verdict(), Verdict::Fail);
    assert!(outcome.first_failure().is_none());
    assert_eq!(outcome.coverage.compared, 2);
    let fault = outcome.coverage.fault().expect("a fault");
    insta::assert_snapshot!(fault, @r#"layers.0.mlp (shape [2, 3, 4] in the reference, shape [48] in the candidate) cannot be compared, nor can 1 other; what need not be is left out by "layers.0.mlp": null in the file of --map"#);
    let map = at("map.json");
    fs::write(&map, r#"{"layers.0.mlp": null, "layers.2.mlp": null}"#).expect("written");
    let outcome = with_map([&ours, &theirs], &map);
    assert_eq!(outcome.verdict(), Verdict::Pass);
    assert_eq!(outcome.coverage.skipped.len(), 2);
}

/// A router in fp32 on bf16 values knows no more than they do.
#[test]
fn wider_stages_after_bf16_ones_are_held_to_bf16() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let all = values(&NAMES, 1.0);
    let dump = |name: &str, factor: f32, halved: bool| {
        let path = arrays(&at(name), &[]);
        for (number, (name, values)) in all.iter().enumerate() {
            let values: Vec<f32> = values.iter().map(|x| x * factor).collect();
            let value = tensor(&values);
            let value = match halved && number < 2 {
                true => value.cast(DType::Bf16).expect("bf16"),
                false => value,
            };
            npy::write(&path.join(format!("{number:03}.{name}.npy")), &value).expect("written");
        }
        path
    };
    let (halves, whole, off) = (
        dump("halves", 1.0, true),
        dump("whole", 1.004, false),
        dump("off", 1.03, false),
    );
    let outcome = compared(&halves, &whole, &Rules::default()).expect("compared");
    assert_eq!(outcome.verdict(), Verdict::Pass);
    assert!(
        outcome
            .notes
            .iter()
            .any(|note| note.contains("in a wider type is held to bf16"))
    );
    assert_eq!(verdict(&halves, &off), Verdict::Fail);
    // The other way about nothing came before.
    assert_eq!(verdict(&dump("fp32", 1.0, false), &whole), Verdict::Fail);
}

/// Numbers at the front of names are places in an order only where they leave the names apart.
#[test]
fn numbers_that_tell_arrays_apart_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = values(&["0.attn", "1.attn", "norm"], 1.0);
    let dump = Dump::open(&arrays(folder.path(), &all)).expect("opened");
    let names: Vec<&str> = dump
        .tensors()
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    assert_eq!(names, ["0.attn", "1.attn", "norm"]);
}

#[test]
fn what_is_no_dump_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    let text = folder.path().join("notes.txt");
    fs::write(&text, "nothing").expect("written");
    for path in [&empty, &text, &folder.path().join("missing")] {
        assert!(Dump::open(path).is_err(), "{}", path.display());
    }
    let copy = Copy::of("transformers_llama3_bf16");
    copy.edit("tokens.npy", false, |bytes| bytes.truncate(10));
    assert!(
        Dump::open(&copy.golden().join("tokens.npy"))
            .expect("opened")
            .tensors()[0]
            .load()
            .is_err()
    );
}

/// What a comparison refuses can be looked at.
#[test]
fn whatever_holds_tensors_is_shown() {
    let inspect = |path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_parity"));
        let done = command
            .arg("inspect")
            .arg(path)
            .output()
            .expect("parity runs");
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{}: {error}", path.display());
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let single = torch_file(&folder.path().join("x.pt"), &values(&NAMES, 1.0));
    assert!(
        inspect(&single).contains("layers.10.mlp  fp32"),
        "{}",
        inspect(&single)
    );

    // A model that nothing here runs, in types that nothing here computes in.
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("a folder");
    fs::write(model.join("config.json"), r#"{"model_type": "nobodys"}"#).expect("written");
    let bytes = [0_u8; 4];
    for dtype in [
        safetensors::Dtype::F8_E8M0,
        safetensors::Dtype::F8_E4M3,
        safetensors::Dtype::I8,
    ] {
        let view = TensorView::new(dtype, vec![4], &bytes).expect("four");
        let file = ::safetensors::serialize([("w", view)], None).expect("safetensors");
        fs::write(model.join("model.safetensors"), file).expect("written");
        let shown = inspect(&model);
        assert!(shown.contains("[4]"), "{shown}");
    }

    // A golden with damage, and one without a manifest that could be read.
    let copy = Copy::of("transformers_llama3_bf16");
    let stage = fs::read_dir(copy.golden()).expect("a golden").flatten();
    let array = stage.map(|entry| entry.path()).find(|path| {
        path.extension().is_some_and(|ending| ending == "npy") && !path.ends_with("tokens.npy")
    });
    let array = array.expect("a stage's values");
    let mut bytes = fs::read(&array).expect("an array");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&array, bytes).expect("written");
    assert!(inspect(&copy.golden()).contains("damaged: "));
    fs::write(copy.golden().join("golden.json"), "{").expect("written");
    let shown = inspect(&copy.golden());
    assert!(
        shown.contains("no golden: ") && shown.contains("tensors"),
        "{shown}"
    );
}
