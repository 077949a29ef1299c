//! What an error advises works: the command that fails is typed, its remedy is read, and the next one, which follows
//! it, goes through. Remedies about arguments of checkpoints are in `convert`, of names of tensors in `dumps`, of GPUs
//! in `cuda`; those that ask for another run of the reference are no commands.

use crate::common::torch::Tensor;
use crate::common::{Copy, checkpoint, copy, goldens, raw_dump};
use parity::golden::Golden;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A folder, and what of the repository the commands in it name: GOLDENS.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The exit code, and all that is said.
    fn parity(&self, command: &str) -> (Option<i32>, String) {
        let goldens = goldens();
        let words = command.split_whitespace();
        let words = words.map(|word| word.replace("GOLDENS", &goldens.to_string_lossy()));
        let mut parity = Command::new(env!("CARGO_BIN_EXE_parity"));
        let done = parity.current_dir(self.path()).args(words).output();
        let done = done.expect("parity runs");
        let text = [done.stdout, done.stderr].concat();
        (
            done.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// A command that fails with this remedy, and the one that follows it, which goes through.
    fn remedied(&self, command: &str, remedy: &str, followed: &str) {
        let (code, said) = self.parity(command);
        assert!(
            code != Some(0) && said.contains(remedy),
            "{command}: {said}"
        );
        let path = self.path().to_string_lossy();
        assert!(!said.contains(&*path), "a path that nobody named: {said}");
        let (code, said) = self.parity(followed);
        assert_eq!(code, Some(0), "{followed}: {said}");
    }
}

const LLAMA: &str = "--golden GOLDENS/megatron_core_llama3_fp32_tp1 --model GOLDENS/megatron_core_llama3_fp32_tp1/hf";

#[test]
fn of_commands_and_cases() {
    let place = Place::new();
    place.remedied(
        "diff",
        "name a case file, or --golden and --model",
        &format!("diff {LLAMA}"),
    );
    place.remedied(
        &format!("diff {LLAMA} --tolerance rounding --mode chained"),
        "use --mode isolated, or another bound",
        &format!("diff {LLAMA} --tolerance rounding --mode isolated"),
    );
    place.remedied(
        &format!("diff {LLAMA} --tolerance flips=1e-6 --mode isolated"),
        "hold it to rounding",
        &format!("diff {LLAMA} --tolerance rounding --mode isolated"),
    );
    let two = "GOLDENS/transformers_llama3_fp32 GOLDENS/megatron_core_llama3_fp32_tp1";
    place.remedied(
        &format!("diff {two} --explain"),
        "leave --explain out",
        &format!("diff {two}"),
    );
    let case = |text: &str| fs::write(place.path().join("x.toml"), text).expect("written");
    let goldens = goldens();
    let of = |key: &str| {
        let golden = goldens.join("megatron_core_llama3_fp32_tp1");
        format!("golden = {golden:?}\n{key} = {:?}\n", golden.join("hf"))
    };
    case(&of("modle"));
    let (_, said) = place.parity("diff x.toml");
    assert!(said.contains("did you mean `model`?"), "{said}");
    case(&of("model"));
    assert_eq!(place.parity("diff x.toml").0, Some(0));
    case(&(of("model") + "[[tolerance]]\nstages = \"nothing\"\nrel = 1e-3\n"));
    place.remedied(
        "diff x.toml",
        "stages are named like layers.0.input_layernorm; `parity inspect` lists them",
        "inspect GOLDENS/megatron_core_llama3_fp32_tp1",
    );
    let [first, second] = ["transformers_llama3_fp32", "megatron_core_llama3_fp32_tp1"]
        .map(|name| goldens.join(name));
    case(&format!("reference = {first:?}\ncandidate = {second:?}\n"));
    place.remedied(
        "explain x.toml",
        "compare them with parity diff",
        "diff x.toml",
    );
}

#[test]
fn of_dumps_and_goldens() {
    let place = Place::new();
    let dump = raw_dump(&goldens().join("bloom_fp32_tp1"));
    fs::rename(dump.path(), place.path().join("dump")).expect("moved");
    let model = "--model GOLDENS/bloom_fp32_tp1/hf";
    place.remedied(
        &format!("diff --golden dump {model}"),
        "`parity import` makes a golden of a dump",
        "import dump --from megatron-deepspeed --output golden",
    );
    assert_eq!(
        place.parity(&format!("diff --golden golden {model}")).0,
        Some(0)
    );
    place.remedied(
        "import dump --output other",
        "say whose hooks wrote it with --from",
        "import dump --from megatron-deepspeed --output other",
    );
    place.remedied(
        "import dump --from megatron-deepspeed --output golden",
        "remove it or name another",
        "import dump --from megatron-deepspeed --output third",
    );
    let statistics = "import dump --from megatron-deepspeed --output statistics --statistics-only";
    assert_eq!(place.parity(statistics).0, Some(0));
    let diff = format!("diff --golden statistics {model}");
    place.remedied(
        &format!("{diff} --mode isolated"),
        "use --mode chained",
        &format!("{diff} --mode chained"),
    );
    // A reference that broke at a stage is compared at others.
    let copy = Copy::of("bloom_fp32_tp1");
    let stage = Golden::open(copy.golden())
        .expect("a golden")
        .file_of(&"h.1.mlp.gelu".into());
    let name = stage
        .file_name()
        .expect("a file")
        .to_string_lossy()
        .into_owned();
    copy.edit(&name, true, |bytes| {
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    fs::rename(copy.golden(), place.path().join("broken")).expect("moved");
    let diff = "diff --golden broken --model GOLDENS/bloom_fp32_tp1/hf";
    place.remedied(
        diff,
        "leave the stage out with --stages",
        &format!("{diff} --stages h.0.*"),
    );
}

#[test]
fn of_conversions() {
    let place = Place::new();
    let shards = "convert GOLDENS/megatron_core_llama/checkpoints/torch_dist";
    assert_eq!(place.parity(&format!("{shards} --output model")).0, Some(0));
    place.remedied(
        &format!("{shards} --output model"),
        "name another, or give --force to replace the model in it",
        &format!("{shards} --output model --force"),
    );
    place.remedied(
        &format!("{shards} --output model"),
        "name another",
        &format!("{shards} --output another"),
    );
    // Two iterations, of which none is said to be the latest.
    let iteration = goldens().join("megatron_core_llama/checkpoints/torch_dist/iter_0000001");
    for number in 1..=2 {
        copy(
            &iteration,
            &place.path().join(format!("saved/iter_000000{number}")),
        );
    }
    place.remedied(
        "convert saved --output of_one",
        "name one of them",
        "convert saved/iter_0000002 --output of_one",
    );
    // A value that fp16 has none for.
    let large = checkpoint::bloom(place.path(), 1, |_, layer, name, shape| {
        let mut tensor = Tensor::counting(shape, layer as f32);
        if name == "mlp.dense_4h_to_h.bias" {
            tensor.data[..4].copy_from_slice(&1e30_f32.to_le_bytes());
        }
        tensor
    });
    let large = large
        .strip_prefix(place.path())
        .expect("below")
        .display()
        .to_string();
    place.remedied(
        &format!("convert {large} --dtype fp16 --output narrow"),
        "convert to a wider --dtype",
        &format!("convert {large} --dtype fp32 --output wide"),
    );
    // What the arguments do not hold is asked for by name.
    fs::remove_file(place.path().join(&large).join("mp_rank_00_model_states.pt")).expect("removed");
    let (_, said) = place.parity(&format!("convert {large} --output asked"));
    let asked = said.matches("--arg ").count();
    assert!(asked > 2, "{said}");
    let given = [
        "hidden_size=4",
        "num_attention_heads=2",
        "num_layers=1",
        "layernorm_epsilon=1e-5",
        "position_embedding_type=alibi",
        "bias_gelu_fusion=true",
    ];
    let given: String = given.map(|arg| format!(" --arg {arg}")).concat();
    place.remedied(
        &format!("convert {large} --output asked"),
        "--arg hidden_size=VALUE",
        &format!("convert {large} --output asked{given}"),
    );
}

/// Files that a copy lost the end of are whole in the next one.
#[test]
fn of_truncated_files() {
    let place = Place::new();
    for side in ["a", "b"] {
        fs::create_dir(place.path().join(side)).expect("made");
        let whole = goldens().join("transformers_llama3_fp32/norm.npy");
        fs::copy(whole, place.path().join(side).join("norm.npy")).expect("copied");
    }
    let whole = fs::read(place.path().join("b/norm.npy")).expect("an array");
    fs::write(place.path().join("b/norm.npy"), &whole[..whole.len() - 7]).expect("written");
    let (code, said) = place.parity("diff a b");
    assert!(
        code == Some(2) && said.contains("the file is truncated: copy it again"),
        "{said}"
    );
    fs::write(place.path().join("b/norm.npy"), &whole).expect("written");
    assert_eq!(place.parity("diff a b").0, Some(0));
}
