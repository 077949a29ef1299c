//! A folder as `save_pretrained` writes it: `config.json` beside `model.safetensors`, or beside
//! shards listed in `model.safetensors.index.json`.

use super::{Stored, Weights};
use crate::arch::ConvertedConfig;
use crate::error::{BadInput, Error, Result};
use crate::tensor::{DType, MappedFile, Tensor};
use safetensors::SafeTensors;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weight files of a folder: every tensor by its full name, mapped.
pub struct SafetensorsFiles {
    folder: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
}

struct Entry {
    stored: Stored,
    file: usize,
    range: Range<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl SafetensorsFiles {
    /// Reads the headers of all weight files; no weights yet.
    ///
    /// # Errors
    /// If a file is missing or malformed, a shard disagrees with the index, or a tensor is stored
    /// in a type that no model has.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        for (path, expected) in weight_files(&folder)? {
            let file = MappedFile::open(path)?;
            let mut found = read_header(&file, files.len())?;
            if let Some(expected) = expected {
                let names: BTreeSet<&String> = found.keys().collect();
                let missing = expected.iter().find(|name| !names.contains(name));
                if let Some(name) = missing {
                    let expected = format!("the tensor {name}, which {INDEX} places here");
                    return Err(BadInput::new(file.path(), expected, "no such tensor").into());
                }
                if let Some(name) = names.iter().find(|name| !expected.contains(**name)) {
                    let expected = format!("only tensors that {INDEX} places here");
                    return Err(BadInput::new(file.path(), expected, *name).into());
                }
            }
            tensors.append(&mut found);
            files.push(file);
        }
        Ok(Self {
            folder,
            files,
            tensors,
        })
    }

    /// The same with this prefix taken off the names that have it.
    ///
    /// # Errors
    /// If a tensor is there with and without it, and not the same.
    fn without_prefix(mut self, prefix: &str) -> Result<Self> {
        let prefixed: Vec<String> = self
            .tensors
            .keys()
            .filter(|name| !prefix.is_empty() && name.starts_with(prefix))
            .cloned()
            .collect();
        for name in prefixed {
            let short = &name[prefix.len()..];
            if self.tensors.contains_key(short) && !self.load(&name)?.bits_equal(&self.load(short)?)
            {
                let expected = format!("one tensor {short}, as {name} or as {short}");
                let found = "both, with different values";
                let remedy =
                    "remove the one that is not meant; transformers loads the one without prefix";
                return Err(BadInput::new(&self.folder, expected, found)
                    .remedy(remedy)
                    .into());
            }
            if let Some(entry) = self.tensors.remove(&name) {
                self.tensors.insert(short.to_owned(), entry);
            }
        }
        Ok(self)
    }
}

impl Weights for SafetensorsFiles {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        self.tensors.get(name).map(|entry| entry.stored.clone())
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(BadInput::new(&self.folder, format!("the tensor {name}"), "none").into());
        };
        let Stored { dtype, shape, .. } = &entry.stored;
        Tensor::from_mapped(*dtype, shape, &self.files[entry.file], entry.range.clone())
    }
}

/// A transformers checkpoint: its configuration and its mapped weights, by names without the model
/// prefix.
pub struct TransformersFolder {
    config: ConvertedConfig,
    dtype: DType,
    weights: SafetensorsFiles,
}

impl TransformersFolder {
    /// Reads `config.json` and the headers of all weight files; no weights yet.
    ///
    /// # Errors
    /// As [`SafetensorsFiles::open`], and if the configuration is missing or malformed.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let config = ConvertedConfig::read(&folder.join("config.json"))?;
        let weights = SafetensorsFiles::open(folder)?.without_prefix(config.model.base_prefix())?;
        let mut stored = weights.tensors.values().map(|entry| entry.stored.dtype);
        let dtype = match config.dtype.or_else(|| stored.next()) {
            Some(dtype) => dtype,
            None => {
                return Err(BadInput::new(&weights.folder, "weights", "no tensor at all").into());
            }
        };
        Ok(Self {
            config,
            dtype,
            weights,
        })
    }

    /// Where the folder lies.
    pub fn path(&self) -> &Path {
        &self.weights.folder
    }

    /// Architecture, sizes and transformers' arithmetic.
    pub fn config(&self) -> &ConvertedConfig {
        &self.config
    }

    /// Storage type: what `config.json` names, else what the weights have.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The weights.
    pub fn into_weights(self) -> SafetensorsFiles {
        self.weights
    }
}

/// The weight files of a folder, each with the names that the index places in it.
fn weight_files(folder: &Path) -> Result<Vec<(PathBuf, Option<BTreeSet<String>>)>> {
    let index = folder.join(INDEX);
    let single = folder.join(SINGLE);
    match (single.exists(), index.exists()) {
        (true, true) => {
            let found = format!("{SINGLE} and {INDEX}");
            let remedy = "remove the one that is not meant; transformers loads the single file";
            let fault = BadInput::new(folder, "one set of weights", found);
            Err(fault.remedy(remedy).into())
        }
        (true, false) => Ok(vec![(single, None)]),
        (false, true) => {
            let file = MappedFile::open(&index)?;
            let map: Index = serde_json::from_slice(&file)
                .map_err(|e| BadInput::new(&index, "an index with a weight_map", e.to_string()))?;
            let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (tensor, file) in map.weight_map {
                // The index is data from elsewhere: it may name only files beside it.
                if Path::new(&file).components().count() != 1 || file.starts_with('.') {
                    let fault = BadInput::new(&index, "the names of files beside it", file);
                    return Err(fault.at(tensor).into());
                }
                files.entry(file).or_default().insert(tensor);
            }
            let files = files.into_iter();
            Ok(files
                .map(|(file, names)| (folder.join(file), Some(names)))
                .collect())
        }
        (false, false) => {
            let expected = format!("{SINGLE} or {INDEX}");
            Err(BadInput::new(folder, expected, "neither")
                .remedy("save the model with safe_serialization")
                .into())
        }
    }
}

fn read_header(file: &MappedFile, number: usize) -> Result<BTreeMap<String, Entry>> {
    let malformed =
        |found: String| -> Error { BadInput::new(file.path(), "a safetensors file", found).into() };
    let (header, metadata) =
        SafeTensors::read_metadata(file).map_err(|e| malformed(e.to_string()))?;
    // After the length of the header and the header itself.
    let start = header + size_of::<u64>();
    let name = file.path().file_name().unwrap_or_default();
    let tensors = metadata.tensors().into_iter().map(|(tensor, info)| {
        let spelled = info.dtype.to_string();
        let dtype = spelled
            .parse::<DType>()
            .map_err(|_| BadInput::new(file.path(), "a floating type", spelled).at(&tensor))?;
        let (begin, end) = info.data_offsets;
        let entry = Entry {
            stored: Stored {
                dtype,
                shape: info.shape.clone(),
                file: name.to_string_lossy().into_owned(),
            },
            file: number,
            range: start + begin..start + end,
        };
        Ok((tensor, entry))
    });
    let tensors = tensors.collect::<Result<_>>()?;
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
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
            (INDEX, index),
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
            let folder = folder(&[(SINGLE, &file(dtype))]);
            let weights = SafetensorsFiles::open(folder.path()).unwrap();
            let tensor = weights.load("w").unwrap();
            assert_eq!(tensor.dtype(), dtype.parse().unwrap());
            assert_eq!(tensor.widened().unwrap().as_slice::<f64>().unwrap(), values);
        }
        insta::assert_snapshot!(
            error(&[(SINGLE, &file("F8_E8M0"))]),
            @"MODEL/model.safetensors: w: expected a floating type, found F8_E8M0"
        );
    }

    #[test]
    fn a_shard_must_hold_what_the_index_places_in_it() {
        let index = br#"{"weight_map": {"a": "1.safetensors"}}"#;
        insta::assert_snapshot!(
            error(&[(INDEX, index), ("1.safetensors", &shard("b"))]),
            @"MODEL/1.safetensors: expected the tensor a, which model.safetensors.index.json places here, found no such tensor"
        );
    }

    #[test]
    fn an_index_may_not_lead_out_of_its_folder() {
        let index = br#"{"weight_map": {"a": "../1.safetensors"}}"#;
        insta::assert_snapshot!(
            error(&[(INDEX, index)]),
            @"MODEL/model.safetensors.index.json: a: expected the names of files beside it, found ../1.safetensors"
        );
    }

    #[test]
    fn malformed_files_are_named() {
        insta::assert_snapshot!(
            error(&[]),
            @"MODEL: expected model.safetensors or model.safetensors.index.json, found neither; save the model with safe_serialization"
        );
        let mut truncated = shard("a");
        truncated.pop();
        assert!(
            error(&[(SINGLE, &truncated)])
                .contains("MODEL/model.safetensors: expected a safetensors file")
        );
        assert!(error(&[(SINGLE, &[255; 16])]).contains("expected a safetensors file"));
        assert!(error(&[(SINGLE, b"")]).contains("expected a safetensors file"));
    }
}
