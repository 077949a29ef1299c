//! A folder of raw dumps: `NNN.<module path>.{input,output}[.tpR].npy` with `tokens.npy`, and with
//! `dump.json` if `scripts/parity_dump.py` wrote it, else `config.json`; in it or beside it.

use crate::arch::Settings;
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
    /// The model's settings.
    config: Map<String, Value>,
    /// What `dump.json` says besides. `None` if there is none.
    description: Option<Map<String, Value>>,
}

/// Written by `scripts/parity_dump.py`.
const DESCRIPTION: &str = "dump.json";
/// The version of it that this crate reads.
const VERSION: u64 = 1;

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
        let described = folder.join(DESCRIPTION);
        let is_described = described.exists();
        let config_path = if is_described {
            described
        } else {
            beside(folder, "config.json")?
        };
        let file = MappedFile::open(&config_path)?;
        let mut settings: Map<String, Value> = serde_json::from_slice(&file)
            .map_err(|e| BadInput::new(&config_path, "a JSON object", e.to_string()))?;
        let mut dump = Self {
            folder: folder.to_owned(),
            arrays,
            config_path,
            config: Map::new(),
            description: None,
        };
        if !is_described {
            dump.config = settings;
            return Ok(dump);
        }
        // Every file's own; its name says as much.
        settings.remove("arrays");
        let version = settings.remove("parity_dump").unwrap_or_default();
        if version.as_u64() != Some(VERSION) {
            let expected = format!("version {VERSION}");
            let fault = BadInput::new(&dump.config_path, expected, version.to_string());
            return Err(fault
                .at("parity_dump")
                .remedy("use the parity_dump.py of this version")
                .into());
        }
        match settings.remove("config") {
            Some(Value::Object(config)) => dump.config = config,
            other => {
                let found = other.unwrap_or_default().to_string();
                let fault = BadInput::new(&dump.config_path, "an object of settings", found);
                return Err(fault.at("config").into());
            }
        }
        dump.description = Some(settings);
        Ok(dump)
    }

    /// Whose hooks wrote it, if it says so.
    pub(super) fn framework(&self) -> Option<&str> {
        self.description.as_ref()?.get("framework")?.as_str()
    }

    /// Whether `dump.json` describes it.
    pub(super) fn is_described(&self) -> bool {
        self.description.is_some()
    }

    /// What is known of the run that made it.
    pub(super) fn provenance(&self) -> &Map<String, Value> {
        self.description.as_ref().unwrap_or(&self.config)
    }

    /// Whether it says which GPU made it.
    pub(super) fn is_of_a_gpu(&self) -> bool {
        self.provenance()
            .get("gpu")
            .is_some_and(|gpu| !gpu.is_null())
    }

    /// The token ids' file.
    pub(super) fn tokens(&self) -> Result<PathBuf> {
        beside(&self.folder, "tokens.npy")
    }

    /// The model's settings.
    pub(super) fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// What is known of the model and of the run: what `dump.json` says of the run comes before the
    /// model's settings.
    pub(super) fn settings(&self) -> Settings<'_> {
        let mut settings = self.config.clone();
        settings.extend(self.description.clone().unwrap_or_default());
        Settings::new(&self.config_path, settings)
    }

    /// The file that they come from.
    pub(super) fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// A setting, as what the caller needs it to be; the first of these names that is there. What
    /// `dump.json` says of the run comes before the model's settings.
    pub(super) fn setting<T: serde::de::DeserializeOwned>(
        &self,
        keys: &[&str],
        what: &str,
    ) -> Result<T> {
        self.optional(keys, what)?.ok_or_else(|| {
            let fault = BadInput::new(&self.config_path, what, "nothing");
            fault.at(keys[0]).into()
        })
    }

    /// As [`Self::setting`], of one that need not be there.
    pub(super) fn optional<T: serde::de::DeserializeOwned>(
        &self,
        keys: &[&str],
        what: &str,
    ) -> Result<Option<T>> {
        let maps = [self.description.as_ref(), Some(&self.config)];
        let get = |key: &&str| maps.into_iter().flatten().find_map(|map| map.get(*key));
        let Some(value) = keys.iter().find_map(get).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|_| {
                let fault = BadInput::new(&self.config_path, what, value.to_string());
                fault.at(keys[0]).into()
            })
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
