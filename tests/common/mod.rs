//! Copies of the project's goldens and models that a test may damage.

pub mod cpp;
pub mod fake_gpu;
pub mod mutation;
pub mod torch;

use parity::case::{Case, Rules};
use parity::diff::{CaseOutcome, Options, diff};
use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};

/// Whether suites run whole, as in `scripts/full_check.sh`, and not in samples.
pub fn is_full() -> bool {
    std::env::var_os("PARITY_FULL").is_some_and(|value| value == "1")
}

/// A suite's items: all of them in a full run, else the first and every `step`th after it.
pub fn sample<T>(items: impl IntoIterator<Item = T>, step: usize) -> impl Iterator<Item = T> {
    let step = if is_full() { 1 } else { step };
    items.into_iter().step_by(step)
}

pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens")
}

pub fn case(golden: impl Into<PathBuf>, model: impl Into<PathBuf>) -> Case {
    Case {
        name: "case".into(),
        golden: golden.into(),
        model: model.into(),
        arithmetic: None,
        tensor_parallel: None,
        rules: Rules::default(),
    }
}

pub fn run(case: &Case) -> CaseOutcome {
    diff(case, &Options::default(), &mut |_| {}).expect("a case that can be run")
}

/// A golden with its model, copied.
pub struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    pub fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&goldens().join(name), &folder.path().join("golden"));
        Self { folder }
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn golden(&self) -> PathBuf {
        self.folder.path().join("golden")
    }

    pub fn model(&self) -> PathBuf {
        self.golden().join("hf")
    }

    pub fn case(&self) -> Case {
        case(self.golden(), self.model())
    }

    /// Replaces text in a file of the golden, which must hold it.
    pub fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.golden().join(file);
        let text = fs::read_to_string(&path).expect("a text file");
        assert!(text.contains(from), "{file} holds {from}");
        fs::write(path, text.replacen(from, to, 1)).expect("written");
    }

    /// Changes a file of the golden and, if asked, the manifest's digest of it.
    pub fn edit(&self, file: &str, sign: bool, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.golden().join(file);
        let mut bytes = fs::read(&path).expect("a file");
        let before = sha256(&bytes);
        change(&mut bytes);
        if sign {
            self.replace("golden.json", &before, &sha256(&bytes));
        }
        fs::write(path, bytes).expect("written");
    }

    /// Changes the weights file, given where each tensor's bytes lie.
    pub fn edit_weights(
        &self,
        change: impl FnOnce(&mut [u8], &dyn Fn(&str) -> std::ops::Range<usize>),
    ) {
        let path = self.model().join("model.safetensors");
        let mut bytes = fs::read(&path).expect("weights");
        let (header, metadata) = SafeTensors::read_metadata(&bytes).expect("safetensors");
        let place = |name: &str| {
            let info = metadata.info(name).expect("a tensor");
            8 + header + info.data_offsets.0..8 + header + info.data_offsets.1
        };
        change(&mut bytes, &place);
        fs::write(path, bytes).expect("written");
    }

    /// The names of all tensors.
    pub fn tensors(&self) -> Vec<String> {
        let bytes = fs::read(self.model().join("model.safetensors")).expect("weights");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("safetensors");
        metadata.offset_keys()
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("copied")),
        }
    }
}

/// The raw dump that a Megatron golden was imported from, put together again from its files.
pub fn raw_dump(golden: &Path) -> tempfile::TempDir {
    use parity::golden::{Content, Golden};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let golden = Golden::open(golden).expect("a golden");
    let manifest = golden.manifest();
    let ranks = manifest.tensor_parallel();
    for (number, record) in manifest.stages.iter().enumerate() {
        let Content::Full { files, .. } = &record.content else {
            panic!("values");
        };
        for rank in 0..ranks {
            let suffix = if ranks > 1 {
                format!(".tp{rank}")
            } else {
                String::new()
            };
            let to = format!("{number:03}.{}{suffix}.npy", record.source);
            // Replicated stages are kept once.
            let from = golden.path().join(&files[rank.min(files.len() - 1)].file);
            fs::copy(from, folder.path().join(to)).expect("copied");
        }
    }
    fs::copy(
        golden.path().join("tokens.npy"),
        folder.path().join("tokens.npy"),
    )
    .expect("copied");
    let mut config = manifest.provenance.extra.clone();
    config.insert("torch".into(), manifest.provenance.torch.clone().into());
    let config = serde_json::to_string(&config).expect("JSON");
    fs::write(folder.path().join("config.json"), config).expect("written");
    folder
}
