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
    // What divides a tensor otherwise is not guessed.
    let other = folder.path().join("other");
    for rank in 0..2 {
        let fields = format!("step=0___rank={rank}___dump_index=0___name=embed___layer_id=0");
        write(&other, &fields, &all[0].1, &[2, 3, 4], "b s[cp] h");
    }
    let error = compared(&one, &other, &Rules::default())
        .expect_err("refused")
        .to_string();
    assert!(error.contains("[tp]"), "{error}");
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
