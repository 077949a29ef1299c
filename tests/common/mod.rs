//! Copies of the project's goldens and models that a test may damage.

pub mod checkpoint;
pub mod cpp;
pub mod fake_gpu;
pub mod torch;

use parity::case::{Case, Rules};
use parity::diff::{CaseOutcome, Options, diff};
use parity::golden::{Algorithm, Golden, Manifest};
use safetensors::SafeTensors;
use serde_json::Value;
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
        dtype: None,
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
        let digests = |bytes: &[u8]| {
            let algorithms = [Algorithm::Sha256, Algorithm::Blake3];
            algorithms.map(|algorithm| algorithm.digest(bytes).hex())
        };
        let before = digests(&bytes);
        change(&mut bytes);
        if sign {
            let manifest = self.golden().join("golden.json");
            let manifest = fs::read_to_string(manifest).expect("a manifest");
            let (before, after) = before
                .iter()
                .zip(digests(&bytes))
                .find(|(before, _)| manifest.contains(*before))
                .expect("a digest of the file");
            self.replace("golden.json", before, &after);
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

/// A golden's manifest with the digests that an import gives today.
pub fn with_blake3(golden: &Golden) -> Manifest {
    fn renew(folder: &Path, value: &mut Value) {
        if let Some(file) = value.get("file").and_then(Value::as_str) {
            let bytes = fs::read(folder.join(file)).expect("a file of the golden");
            value["digest"] = Algorithm::Blake3.digest(&bytes).to_string().into();
            return;
        }
        match value {
            Value::Object(entries) => entries.values_mut().for_each(|entry| renew(folder, entry)),
            Value::Array(items) => items.iter_mut().for_each(|item| renew(folder, item)),
            _ => {}
        }
    }
    let mut manifest = serde_json::from_str(&golden.manifest().to_json()).expect("JSON");
    renew(golden.path(), &mut manifest);
    Manifest::parse(golden.path(), manifest.to_string().as_bytes()).expect("a manifest")
}

/// Copies a folder and what is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

/// The raw dump that a Megatron golden was imported from, put together again from its files.
pub fn raw_dump(golden: &Path) -> tempfile::TempDir {
    use parity::golden::Content;
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
