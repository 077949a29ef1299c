//! A folder of raw dumps: `NNN.<module path>.{input,output}[.tpR].npy`, in folders `rankR` without the
//! suffix, with `tokens.npy`, and with `dump.json` if `scripts/parity_dump.py` wrote it, else
//! `config.json`; in it or in one of the two folders above.

use super::listing::Listing;
use crate::arch::Settings;
use crate::error::{BadInput, Error, Result};
use crate::tensor::{DType, MappedFile};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A raw dump: what lies in its folder, and what it says of itself.
pub(super) struct RawDump {
    folder: PathBuf,
    /// Its arrays.
    pub(super) listing: Listing,
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
        let listing = Listing::of(folder)?;
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
            listing,
            config_path,
            config: Map::new(),
            description: None,
        };
        if !is_described {
            dump.config = settings;
            return Ok(dump);
        }
        if let Some(listed) = settings.remove("arrays") {
            dump.listing.add_types(&dump.config_path, folder, listed)?;
        }
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
        dump.read_ranks()?;
        Ok(dump)
    }

    /// Reads what ranks above 0 say of themselves, and checks that it is what rank 0 says.
    fn read_ranks(&mut self) -> Result<()> {
        let ranks = self.listing.arrays.values();
        let ranks = ranks.flat_map(|files| files.keys().copied()).max();
        for rank in 1..=ranks.unwrap_or(0) {
            let path = self.folder.join(format!("dump.tp{rank}.json"));
            let file = MappedFile::open(&path)?;
            let mut said: Map<String, Value> = serde_json::from_slice(&file)
                .map_err(|e| BadInput::new(&path, "a JSON object", e.to_string()))?;
            let config = Value::Object(self.config.clone());
            for key in ["framework", "dtype", "tensor_parallel", "config"] {
                let first = self.description.as_ref().and_then(|said| said.get(key));
                let first = first.or((key == "config").then_some(&config));
                if said.get(key) != first {
                    let shown = |value: Option<&Value>| value.map(Value::to_string);
                    let of_first = shown(first).unwrap_or("nothing".into());
                    let expected = format!("{of_first}, as {} has", self.config_path.display());
                    let found = shown(said.get(key)).unwrap_or("nothing".into());
                    return Err(BadInput::new(&path, expected, found).at(key).into());
                }
            }
            if let Some(listed) = said.remove("arrays") {
                self.listing.add_types(&path, &self.folder, listed)?;
            }
        }
        Ok(())
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

    /// Joins the stages of a pipeline.
    pub(super) fn join_stages(&mut self, stages: usize) -> Result<()> {
        if stages == 1 {
            return Ok(());
        }
        self.listing.join_stages(stages).map_err(|found| {
            let expected = "folders of as many ranks for every stage of the pipeline";
            BadInput::new(&self.folder, expected, found).into()
        })
    }

    /// A file of this name in a rank's own folder.
    pub(super) fn of_rank(&self, rank: usize, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(format!("rank{rank}")).join(name);
        path.exists().then_some(path)
    }

    /// A file that lies where the token ids' does, if there is one of this name.
    pub(super) fn beside_tokens(&self, name: &str) -> Result<Option<PathBuf>> {
        let path = self.tokens()?.with_file_name(name);
        Ok(path.exists().then_some(path))
    }

    /// The name of its folder.
    pub(super) fn name(&self) -> Result<String> {
        let folder = std::path::absolute(&self.folder);
        let folder = folder.map_err(Error::io(&self.folder, "resolve"))?;
        let name = folder.file_name().unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
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

    /// The type in which autocast ran products of a run in `run`: as the dump says, or as arrays show.
    pub(super) fn autocast(&self, run: DType) -> Result<Option<DType>> {
        let said: Option<Value> = self.numerics("autocast", "a type, or whether it was on")?;
        let said = said.as_ref().and_then(Value::as_str);
        let said = said.and_then(|said| said.parse::<DType>().ok());
        // A run in the type itself is one without.
        Ok(said
            .filter(|said| *said != run)
            .or_else(|| self.listing.autocast(run)))
    }

    /// What the dump says of a choice that changes the numerics of the run.
    pub(super) fn numerics<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
        what: &str,
    ) -> Result<Option<T>> {
        let all: Option<Map<String, Value>> = self.optional(&["numerics"], "settings by name")?;
        let found = all
            .and_then(|mut all| all.remove(key))
            .filter(|value| !value.is_null());
        found
            .map(|value| self.parsed(&format!("numerics.{key}"), what, &value))
            .transpose()
    }

    /// Whether documents in one row do not see each other, in Megatron.
    pub(super) fn resets_attention(&self) -> Result<bool> {
        let key = "reset_attention_mask";
        Ok(self.optional(&[key], "true or false")?.unwrap_or(false))
    }

    /// How many ranks share every sequence.
    pub(super) fn context_parallel(&self, settings: &Settings<'_>) -> Result<usize> {
        const MOST: usize = 4096;
        let key = "context_parallel_size";
        match settings.optional_size(&[key])? {
            None => Ok(1),
            Some(ranks @ 1..=MOST) => Ok(ranks),
            Some(other) => Err(settings.fault(key, "1 to 4096 ranks", other)),
        }
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
        self.parsed(keys[0], what, value).map(Some)
    }

    fn parsed<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
        what: &str,
        value: &Value,
    ) -> Result<T> {
        T::deserialize(value).map_err(|_| {
            let fault = BadInput::new(&self.config_path, what, value.to_string());
            fault.at(key).into()
        })
    }
}

/// The nearest file of this name: in the folder of the dumps, or in one of the two above.
fn beside(folder: &Path, name: &str) -> Result<PathBuf> {
    let own = folder.join(name);
    if own.exists() {
        return Ok(own);
    }
    let folder = &std::path::absolute(folder).map_err(Error::io(folder, "resolve"))?;
    let mut places = folder.ancestors().take(3).map(|place| place.join(name));
    places.find(|path| path.exists()).ok_or_else(|| {
        let expected = format!("{name} in the folder of the dumps or in one of the two above");
        BadInput::new(folder, expected, "none").into()
    })
}
