//! A folder as `save_pretrained` writes it: `config.json` beside the weights, in one file or in shards that an
//! index lists.

use super::Weights;
use super::bin::TorchFiles;
use super::block_scaled::BlockScaled;
use super::safetensors::SafetensorsFiles;
use super::wrapped::Bare;
use crate::arch::ConvertedConfig;
use crate::error::{BadInput, Error, Result};
use crate::tensor::{DType, MappedFile};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The names of weight files in one format.
pub(super) struct Names {
    single: &'static str,
    index: &'static str,
}

/// A file of weights, and what the index places in it.
pub(super) struct WeightFile {
    pub(super) path: PathBuf,
    index: Option<(&'static str, BTreeSet<String>)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Names {
    pub(super) const SAFETENSORS: Self = Self {
        single: "model.safetensors",
        index: "model.safetensors.index.json",
    };
    pub(super) const TORCH: Self = Self {
        single: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
    };

    /// The weight files of a folder; `None` if it has none of these names.
    pub(super) fn find(&self, folder: &Path) -> Result<Option<Vec<WeightFile>>> {
        let index = folder.join(self.index);
        let single = folder.join(self.single);
        match (single.exists(), index.exists()) {
            (true, true) => {
                let found = format!("{} and {}", self.single, self.index);
                let remedy = "remove the one that is not meant; transformers loads the single file";
                let fault = BadInput::new(folder, "one set of weights", found);
                Err(fault.remedy(remedy).into())
            }
            (true, false) => Ok(Some(vec![WeightFile {
                path: single,
                index: None,
            }])),
            (false, true) => {
                let file = MappedFile::open(&index)?;
                let map: Index = serde_json::from_slice(&file).map_err(|e| {
                    BadInput::new(&index, "an index with a weight_map", e.to_string())
                })?;
                let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
                for (tensor, file) in map.weight_map {
                    // The index is data from elsewhere: it may name only files beside it.
                    if Path::new(&file).components().count() != 1 || file.starts_with('.') {
                        let fault = BadInput::new(&index, "the names of files beside it", file);
                        return Err(fault.at(tensor).into());
                    }
                    files.entry(file).or_default().insert(tensor);
                }
                let files = files.into_iter().map(|(file, names)| WeightFile {
                    path: folder.join(file),
                    index: Some((self.index, names)),
                });
                Ok(Some(files.collect()))
            }
            (false, false) => Ok(None),
        }
    }

    /// The error of a folder without weights.
    pub(super) fn missing(folder: &Path) -> Error {
        let [ours, older] = [Self::SAFETENSORS, Self::TORCH];
        let expected = format!(
            "weights: {}, {}, {} or {}",
            ours.single, ours.index, older.single, older.index
        );
        let remedy = "save the model there with save_pretrained";
        BadInput::new(folder, expected, "none of them")
            .remedy(remedy)
            .into()
    }
}

impl WeightFile {
    /// Checks that a file has what the index places in it. What else it has is loaded as well, as transformers
    /// does.
    pub(super) fn check<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<()> {
        let Some((index, expected)) = &self.index else {
            return Ok(());
        };
        let names: BTreeSet<&str> = names.collect();
        match expected.iter().find(|name| !names.contains(name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let expected = format!("the tensor {name}, which {index} places here");
                Err(BadInput::new(&self.path, expected, "no such tensor").into())
            }
        }
    }
}

/// The error of two files with a tensor of one name.
pub(super) fn twice(name: &str, first: &Path, second: &Path) -> Error {
    let found = format!("it in {} as well", first.display());
    let fault = BadInput::new(second, "every tensor in one file", found);
    fault
        .at(name)
        .remedy("remove the one that is not meant")
        .into()
}

/// A transformers checkpoint: its configuration and its mapped weights, by names without the model
/// prefix.
pub struct TransformersFolder {
    folder: PathBuf,
    config: ConvertedConfig,
    dtype: DType,
    weights: Box<dyn Weights>,
    notes: Vec<String>,
}

impl TransformersFolder {
    /// Whether a folder has weights of a kind that transformers loads.
    pub(crate) fn has_weights(folder: &Path) -> bool {
        let names = [Names::SAFETENSORS, Names::TORCH];
        let mut files = names.iter().flat_map(|names| [names.single, names.index]);
        files.any(|file| folder.join(file).exists())
    }

    /// The weights of a folder under the names that they are stored by, without its configuration.
    ///
    /// # Errors
    /// If a file is missing or malformed, lacks what an index places in it, two have a tensor of one name, or
    /// one is stored in a type that no model has.
    pub fn stored_weights(folder: &Path) -> Result<Box<dyn Weights>> {
        if let Some(files) = Names::SAFETENSORS.find(folder)? {
            return Ok(Box::new(SafetensorsFiles::of(folder.to_owned(), files)?));
        }
        match Names::TORCH.find(folder)? {
            Some(files) => Ok(Box::new(TorchFiles::open(folder, files)?)),
            None => Err(Names::missing(folder)),
        }
    }

    /// Reads `config.json` and the headers of all weight files; no weights yet.
    ///
    /// # Errors
    /// As [`Self::stored_weights`], and if the configuration is missing or malformed.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let config = ConvertedConfig::read(&folder.join("config.json"))?;
        let stored = Self::stored_weights(&folder)?;
        let weights = Bare::new(stored, config.model.base_prefix(), &folder)?;
        let names = weights.names().into_iter();
        let mut types = names.filter_map(|name| Some(weights.stored(name)?.dtype));
        let Some(dtype) = config.dtype.or_else(|| types.next()) else {
            return Err(BadInput::new(&folder, "weights", "no tensor at all").into());
        };
        let notes = weights.note().map(str::to_owned).into_iter().collect();
        let settings = ConvertedConfig::settings(&folder.join("config.json"))?;
        let weights = BlockScaled::over(Box::new(weights), &settings, dtype, &folder)?;
        Ok(Self {
            folder,
            config,
            dtype,
            weights,
            notes,
        })
    }

    /// Where the folder lies.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Architecture, sizes and transformers' arithmetic.
    pub fn config(&self) -> &ConvertedConfig {
        &self.config
    }

    /// Storage type: what `config.json` names, else what the weights have.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What a reader should know of how it is read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The weights.
    pub fn into_weights(self) -> Box<dyn Weights> {
        self.weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::SafetensorsFiles;
    use std::fs;

    const CONFIG: &str = r#"{"model_type": "bloom", "dtype": "bfloat16"}"#;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), CONFIG).unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    /// One bf16 tensor of two elements.
    fn shard(name: &str) -> Vec<u8> {
        let header = format!(r#"{{"{name}":{{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0x80, 0x3f, 0, 0x40]);
        bytes
    }

    fn error(files: &[(&str, &[u8])]) -> String {
        let folder = folder(files);
        let error = TransformersFolder::open(folder.path())
            .err()
            .expect("refused");
        let path = folder.path().display().to_string();
        error.to_string().replace(&path, "MODEL")
    }

    #[test]
    fn shards_are_one_checkpoint() {
        let index = br#"{"weight_map": {"transformer.a": "1.safetensors", "b": "2.safetensors"}}"#;
        let folder = folder(&[
            (Names::SAFETENSORS.index, index),
            ("1.safetensors", &shard("transformer.a")),
            ("2.safetensors", &shard("b")),
        ]);
        let weights = TransformersFolder::open(folder.path())
            .unwrap()
            .into_weights();
        assert_eq!(weights.names(), ["a", "b"]);
        let tensor = weights.load("a").unwrap();
        assert_eq!(tensor.as_slice::<half::bf16>().unwrap()[1].to_f32(), 2.0);
        assert!(weights.load("c").is_err());
    }

    #[test]
    fn fp8_is_read_and_what_has_no_values_of_its_own_is_not() {
        let file = |dtype: &str| {
            let header =
                format!(r#"{{"w":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,2]}}}}"#);
            let length = (header.len() as u64).to_le_bytes();
            [&length[..], header.as_bytes(), &[0x38, 0x7b]].concat()
        };
        for (dtype, values) in [("F8_E4M3", [1.0, 352.0]), ("F8_E5M2", [0.5, 57344.0])] {
            let folder = folder(&[(Names::SAFETENSORS.single, &file(dtype))]);
            let weights = SafetensorsFiles::open(folder.path()).unwrap();
            let tensor = weights.load("w").unwrap();
            assert_eq!(tensor.dtype(), dtype.parse().unwrap());
            assert_eq!(tensor.widened().unwrap().as_slice::<f64>().unwrap(), values);
        }
        insta::assert_snapshot!(
            error(&[(Names::SAFETENSORS.single, &file("F8_E8M0"))]),
            @"MODEL/model.safetensors: w: expected a floating type, found F8_E8M0"
        );
    }

    #[test]
    fn a_shard_must_hold_what_the_index_places_in_it() {
        let index = br#"{"weight_map": {"a": "1.safetensors"}}"#;
        insta::assert_snapshot!(
            error(&[(Names::SAFETENSORS.index, index), ("1.safetensors", &shard("b"))]),
            @"MODEL/1.safetensors: expected the tensor a, which model.safetensors.index.json places here, found no such tensor"
        );
    }

    #[test]
    fn an_index_may_not_lead_out_of_its_folder() {
        let index = br#"{"weight_map": {"a": "../1.safetensors"}}"#;
        insta::assert_snapshot!(
            error(&[(Names::SAFETENSORS.index, index)]),
            @"MODEL/model.safetensors.index.json: a: expected the names of files beside it, found ../1.safetensors"
        );
    }

    #[test]
    fn malformed_files_are_named() {
        insta::assert_snapshot!(
            error(&[]),
            @"MODEL: expected weights: model.safetensors, model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json, found none of them; save the model there with save_pretrained"
        );
        let mut truncated = shard("a");
        truncated.pop();
        assert!(
            error(&[(Names::SAFETENSORS.single, &truncated)])
                .contains("MODEL/model.safetensors: expected a safetensors file")
        );
        assert!(
            error(&[(Names::SAFETENSORS.single, &[255; 16])])
                .contains("expected a safetensors file")
        );
        assert!(error(&[(Names::SAFETENSORS.single, b"")]).contains("expected a safetensors file"));
    }
}
