//! The arrays of a raw dump: which there are, of which ranks, and of which true types.

use crate::error::{BadInput, Error, Result};
use crate::tensor::{DType, MappedFile, npy};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of the tensor-parallel ranks, which files' names or folders `rank0`, `rank1`, … tell.
pub(super) struct Listing {
    /// By position in the run and name, one a rank.
    pub(super) arrays: BTreeMap<(u32, String), BTreeMap<usize, PathBuf>>,
    /// How many folders of ranks there are; `None` if names tell ranks.
    pub(super) folders: Option<usize>,
    /// What an array is in truth, whatever its file stores it in, where the dump says.
    types: BTreeMap<PathBuf, DType>,
}

/// Lists the arrays of a rank's folder, with their true types.
const TYPES: &str = "manifest.json";

/// What a list of arrays says of one.
#[derive(Deserialize)]
struct Listed {
    file: String,
    #[serde(alias = "torch_dtype")]
    dtype: String,
}

impl Listing {
    /// Lists a folder.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let mut listing = Self {
            arrays: BTreeMap::new(),
            folders: None,
            types: BTreeMap::new(),
        };
        let mut ranks = BTreeMap::new();
        for path in entries(folder)? {
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some((number, name, rank)) = name.and_then(parse_name) {
                listing.add(number, name, rank, path);
            } else if let Some(rank) = name.and_then(rank_of).filter(|_| path.is_dir()) {
                ranks.insert(rank, path);
            }
        }
        if listing.arrays.is_empty() && !ranks.is_empty() {
            listing.add_folders(folder, &ranks)?;
        } else {
            listing.read_types(folder)?;
        }
        if listing.arrays.is_empty() {
            let expected = "dumps named NNN.<module>.<input|output>.npy";
            return Err(BadInput::new(folder, expected, "none").into());
        }
        Ok(listing)
    }

    fn add(&mut self, number: u32, name: String, rank: usize, path: PathBuf) {
        let files = self.arrays.entry((number, name)).or_default();
        files.insert(rank, path);
    }

    fn add_folders(&mut self, folder: &Path, ranks: &BTreeMap<usize, PathBuf>) -> Result<()> {
        if !ranks.keys().copied().eq(0..ranks.len()) {
            let expected = format!("folders rank0 to rank{}", ranks.len() - 1);
            let found: Vec<_> = ranks.keys().collect();
            return Err(BadInput::new(folder, expected, format!("ranks {found:?}")).into());
        }
        self.folders = Some(ranks.len());
        // Ranks may have run other numbers of modules before one that they share: the first one's numbers count.
        let mut numbers: BTreeMap<(String, usize), u32> = BTreeMap::new();
        for (rank, folder) in ranks {
            let mut arrays = Vec::new();
            for path in entries(folder)? {
                let name = path.file_name().and_then(|name| name.to_str());
                // Of a rank of its own in the folder of another nothing is known.
                if let Some((number, name, 0)) = name.and_then(parse_name) {
                    arrays.push((number, name, path));
                }
            }
            arrays.sort();
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for (number, name, path) in arrays {
                let times = seen.entry(name.clone()).or_default();
                let number = *numbers.entry((name.clone(), *times)).or_insert(number);
                *times += 1;
                self.add(number, name, *rank, path);
            }
            self.read_types(folder)?;
        }
        Ok(())
    }

    /// Reads a folder's list of types, if it has one.
    fn read_types(&mut self, folder: &Path) -> Result<()> {
        let path = folder.join(TYPES);
        if !path.exists() {
            return Ok(());
        }
        let listed: serde_json::Value = serde_json::from_slice(&MappedFile::open(&path)?)
            .map_err(|e| BadInput::new(&path, "a list of arrays", e.to_string()))?;
        self.add_types(&path, folder, listed)
    }

    /// Takes over a list of arrays that lie in `folder`; `path` is the file that holds it.
    pub(super) fn add_types(
        &mut self,
        path: &Path,
        folder: &Path,
        listed: serde_json::Value,
    ) -> Result<()> {
        let listed: Vec<Listed> = serde_json::from_value(listed)
            .map_err(|e| BadInput::new(path, "a list of arrays", e.to_string()))?;
        for Listed { file, dtype } in listed {
            let array = folder.join(&file);
            if !array.exists() {
                let expected = "the arrays that it lists";
                return Err(BadInput::new(path, expected, format!("no {file}")).into());
            }
            // Arrays of other types than models are stored in are no stages, or bits of one.
            let dtype = dtype.trim_start_matches("torch.").parse::<DType>().ok();
            if let Some(dtype) = dtype.filter(|dtype| dtype.float().is_some()) {
                self.types.insert(array, dtype);
            }
        }
        Ok(())
    }

    /// How many ranks have arrays.
    pub(super) fn ranks(&self) -> usize {
        let ranks = self.arrays.values().map(BTreeMap::len);
        ranks.max().unwrap_or(1)
    }

    /// Joins the stages of a pipeline, each of as many ranks in a row: a stage counts its layers from 0, and has
    /// ranks of its own.
    pub(super) fn join_stages(&mut self, stages: usize) -> Result<(), String> {
        let folders = self.folders.unwrap_or(1);
        if !folders.is_multiple_of(stages) {
            return Err(format!("{folders}, in {stages} stages"));
        }
        let of_stage = folders / stages;
        let mut layers = vec![0; stages];
        let arrays = std::mem::take(&mut self.arrays);
        for ((_, name), files) in &arrays {
            let of_layer = layer_of(name).map_or(0, |(layer, _)| layer.saturating_add(1));
            for rank in files.keys() {
                let most: &mut usize = &mut layers[rank / of_stage];
                *most = of_layer.max(*most);
            }
        }
        for ((number, name), files) in arrays {
            for (rank, path) in files {
                let stage = rank / of_stage;
                let before: usize = layers[..stage].iter().sum();
                let name = match layer_of(&name) {
                    Some((layer, around)) => {
                        format!("{}{}{}", around[0], before + layer, around[1])
                    }
                    None => name.clone(),
                };
                // What comes later in the pipeline comes later in the run.
                let number = number.saturating_add(stage as u32 * LATER);
                self.add(number, name, rank % of_stage, path);
            }
        }
        self.folders = Some(of_stage);
        Ok(())
    }

    /// The type that the dump says the first array has.
    pub(super) fn first_type(&self) -> Option<(&Path, DType)> {
        let first = self.arrays.values().flat_map(BTreeMap::values).next()?;
        Some((first, *self.types.get(first)?))
    }

    /// The half type that some arrays of a run in fp32 have: autocast's.
    pub(super) fn autocast(&self, run: DType) -> Option<DType> {
        if run != DType::F32 {
            return None;
        }
        let files = self.arrays.values().flat_map(BTreeMap::values);
        // A file's own type counts where nothing is said of it; bits are nobody's.
        let own = |file: &PathBuf| Some(npy::read(file.as_path(), None).ok()?.dtype());
        let mut types = files.filter_map(|file| self.type_of(file).or_else(|| own(file)));
        types.find(|dtype| dtype.is_half())
    }

    /// What the dump says that an array is.
    pub(super) fn type_of(&self, file: &Path) -> Option<DType> {
        self.types.get(file).copied()
    }

    /// Checks that files of one array are of one type, and that it is the run's, autocast's, or a wider one in
    /// which its values are kept.
    pub(super) fn check_types(
        &self,
        files: &[&PathBuf],
        run: DType,
        autocast: Option<DType>,
    ) -> Result<()> {
        let typed = |file| Some((file, *self.types.get(file)?));
        let types: Vec<(&PathBuf, DType)> = files.iter().copied().filter_map(typed).collect();
        for (file, dtype) in &types {
            let (first, expected) = types[0];
            if *dtype != expected {
                let expected = format!("{expected}, as {} has", first.display());
                return Err(BadInput::new(*file, expected, dtype.to_string()).into());
            }
            if ![Some(run), Some(DType::F32), autocast].contains(&Some(*dtype)) {
                let under =
                    autocast.map_or_else(String::new, |half| format!(" under {half} autocast"));
                let expected = format!("an array of a run in {run}{under}");
                return Err(BadInput::new(*file, expected, dtype.to_string()).into());
            }
        }
        Ok(())
    }
}

/// More than there are arrays in a stage of a pipeline.
const LATER: u32 = 1 << 20;

/// The number of a layer in a name, and what is around it.
fn layer_of(name: &str) -> Option<(usize, [&str; 2])> {
    const BEFORE: &str = "layers.";
    let start = name.find(BEFORE)? + BEFORE.len();
    let rest = &name[start..];
    let end = start + rest.find('.')?;
    let layer = name[start..end].parse().ok()?;
    Some((layer, [&name[..start], &name[end..]]))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = folder.read_dir().map_err(Error::io(folder, "list"))?;
    let path = |entry: std::io::Result<std::fs::DirEntry>| entry.map(|entry| entry.path());
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(path).collect();
    paths.map_err(Error::io(folder, "list"))
}

/// 1 of `rank1`.
fn rank_of(folder: &str) -> Option<usize> {
    folder.strip_prefix("rank")?.parse().ok()
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
    use super::*;
    use std::fs;

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

    /// Two ranks' folders, with the type that each says its array has.
    fn ranks(types: [&str; 2]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (rank, dtype) in types.iter().enumerate() {
            let rank = folder.path().join(format!("rank{rank}"));
            fs::create_dir(&rank).unwrap();
            fs::write(rank.join("000.a.output.npy"), []).unwrap();
            let listed = format!(r#"[{{"file": "000.a.output.npy", "torch_dtype": "{dtype}"}}]"#);
            fs::write(rank.join(TYPES), listed).unwrap();
        }
        folder
    }

    fn check(listing: &Listing, run: DType) -> Result<()> {
        let files: Vec<&PathBuf> = listing.arrays.values().flat_map(BTreeMap::values).collect();
        assert_eq!(files.len(), 2);
        listing.check_types(&files, run, None)
    }

    #[test]
    fn ranks_may_lie_in_folders() {
        let folder = ranks(["torch.bfloat16"; 2]);
        let listing = Listing::of(folder.path()).unwrap();
        assert_eq!(listing.folders, Some(2));
        assert_eq!(listing.first_type().unwrap().1, DType::Bf16);
        check(&listing, DType::Bf16).unwrap();
        let error = check(&listing, DType::F16).unwrap_err().to_string();
        assert!(
            error.contains("expected an array of a run in fp16, found bf16"),
            "{error}"
        );
    }

    #[test]
    fn ranks_that_contradict_each_other_are_refused() {
        let folder = ranks(["torch.bfloat16", "torch.float32"]);
        let listing = Listing::of(folder.path()).unwrap();
        let error = check(&listing, DType::Bf16).unwrap_err().to_string();
        for words in ["rank1", "rank0", "expected bf16", "found fp32"] {
            assert!(error.contains(words), "{error}");
        }
        fs::rename(folder.path().join("rank1"), folder.path().join("rank2")).unwrap();
        let error = Listing::of(folder.path()).err().unwrap().to_string();
        assert!(
            error.contains("folders rank0 to rank1, found ranks [0, 2]"),
            "{error}"
        );
    }

    #[test]
    fn stages_of_a_pipeline_count_their_layers_from_0() {
        let folder = tempfile::tempdir().unwrap();
        // The first stage has one layer, the second two.
        let names = [
            ["000.embedding.output", "001.decoder.layers.0.output"].as_slice(),
            &[
                "000.decoder.layers.0.output",
                "001.decoder.layers.1.output",
                "002.logits",
            ],
        ];
        for rank in 0..4 {
            let of_rank = folder.path().join(format!("rank{rank}"));
            fs::create_dir(&of_rank).unwrap();
            for name in names[rank / 2] {
                fs::write(of_rank.join(format!("{name}.npy")), []).unwrap();
            }
        }
        let mut listing = Listing::of(folder.path()).unwrap();
        listing.join_stages(2).unwrap();
        let found: Vec<(&str, usize)> = listing
            .arrays
            .iter()
            .map(|((_, name), files)| (name.as_str(), files.len()))
            .collect();
        let expected = [
            ("embedding.output", 2),
            ("decoder.layers.0.output", 2),
            ("decoder.layers.1.output", 2),
            ("decoder.layers.2.output", 2),
            ("logits", 2),
        ];
        assert_eq!(found, expected);
        assert!(Listing::of(folder.path()).unwrap().join_stages(3).is_err());
    }
}
