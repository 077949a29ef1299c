//! A folder of raw dumps: `NNN.<module path>.{input,output}[.tpR].npy`, with `config.json` and
//! `tokens.npy` in it or beside it.

use crate::error::{BadInput, Error, Result};
use crate::tensor::MappedFile;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The listing of a raw dump.
pub(super) struct RawDump {
    folder: PathBuf,
    /// Files by position in the run and name, one a tensor-parallel rank.
    pub(super) arrays: BTreeMap<(u32, String), BTreeMap<usize, PathBuf>>,
    config_path: PathBuf,
    config: Map<String, Value>,
}

impl RawDump {
    /// Lists a folder and reads its `config.json`.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let mut arrays: BTreeMap<_, BTreeMap<usize, PathBuf>> = BTreeMap::new();
        for entry in folder.read_dir().map_err(Error::io(folder, "list"))? {
            let path = entry.map_err(Error::io(folder, "list"))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some((number, name, rank)) = name.and_then(parse_name) else {
                continue;
            };
            arrays.entry((number, name)).or_default().insert(rank, path);
        }
        if arrays.is_empty() {
            let expected = "dumps named NNN.<module>.<input|output>.npy";
            return Err(BadInput::new(folder, expected, "none").into());
        }
        let config_path = beside(folder, "config.json")?;
        let file = MappedFile::open(&config_path)?;
        let config = serde_json::from_slice(&file)
            .map_err(|e| BadInput::new(&config_path, "a JSON object", e.to_string()))?;
        Ok(Self {
            folder: folder.to_owned(),
            arrays,
            config_path,
            config,
        })
    }

    /// The token ids' file.
    pub(super) fn tokens(&self) -> Result<PathBuf> {
        beside(&self.folder, "tokens.npy")
    }

    /// All settings of `config.json`.
    pub(super) fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// Where `config.json` lies.
    pub(super) fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// A setting of `config.json`, as what the caller needs it to be.
    pub(super) fn setting<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
        what: &str,
    ) -> Result<T> {
        let value = self.config.get(key).cloned();
        let found = value
            .as_ref()
            .map_or("nothing".to_owned(), Value::to_string);
        value
            .and_then(|value| serde_json::from_value(value).ok())
            .ok_or_else(|| BadInput::new(&self.config_path, what, found).at(key).into())
    }
}

/// A file in the folder of the dumps, or in the one above.
fn beside(folder: &Path, name: &str) -> Result<PathBuf> {
    let folder = &std::path::absolute(folder).map_err(Error::io(folder, "resolve"))?;
    let places = [Some(folder.as_path()), folder.parent()];
    let found = places.into_iter().flatten().map(|place| place.join(name));
    found.into_iter().find(|path| path.exists()).ok_or_else(|| {
        let expected = format!("{name} in the folder of the dumps or the one above");
        BadInput::new(folder, expected, "neither").into()
    })
}

/// Splits `012.3.mlp.output.tp1.npy` into 12, `3.mlp.output` and rank 1.
fn parse_name(file: &str) -> Option<(u32, String, usize)> {
    let stem = file.strip_suffix(".npy")?;
    let (number, name) = stem.split_once('.')?;
    let number = number.parse().ok()?;
    let ranked = name
        .rsplit_once(".tp")
        .and_then(|(name, rank)| Some((name, rank.parse().ok()?)));
    let (name, rank) = ranked.unwrap_or((name, 0));
    Some((number, name.to_owned(), rank))
}

#[cfg(test)]
mod tests {
    use super::parse_name;

    #[test]
    fn names_have_a_number_a_module_and_a_rank() {
        let name = |name: &str| name.to_owned();
        assert_eq!(
            parse_name("012.3.mlp.output.tp1.npy"),
            Some((12, name("3.mlp.output"), 1))
        );
        assert_eq!(
            parse_name("000.ln_f.output.npy"),
            Some((0, name("ln_f.output"), 0))
        );
        assert_eq!(parse_name("tokens.npy"), None);
        assert_eq!(parse_name("readme.txt"), None);
    }
}
