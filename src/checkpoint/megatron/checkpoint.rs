//! A checkpoint, whatever its format.

use super::shards::{Joined, Listed, Partition, Source};
use super::{Arg, Args, classic, deepspeed, torch_dist};
use crate::checkpoint::wrapped::{bare, note};
use crate::error::{BadInput, Error, Result};
use crate::tensor::MappedFile;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// How a checkpoint lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Megatron-DeepSpeed: a file a pipeline layer and rank.
    DeepSpeed,
    /// Megatron-LM: a file a rank.
    Classic,
    /// megatron-core: chunks in `.distcp` files.
    TorchDist,
}

/// A Megatron checkpoint: named tensors in shards, and the training run's arguments.
pub struct MegatronCheckpoint {
    folder: PathBuf,
    format: Format,
    ranks: usize,
    args: Args,
    listed: BTreeMap<String, Listed>,
    source: Box<dyn Source>,
}

impl MegatronCheckpoint {
    /// Whether a folder looks like a Megatron checkpoint, or like one that holds some.
    pub fn recognises(path: &Path) -> bool {
        format_of(path).is_some()
            || TRACKERS.iter().any(|name| path.join(name).is_file())
            || !iterations(path).is_empty()
    }

    /// Opens a checkpoint: the folder of one iteration, or the one above it with the file that
    /// names the latest. `given` are arguments that take the place of the checkpoint's own.
    ///
    /// No tensor is read.
    ///
    /// # Errors
    /// If the folder is none of the [`Format`]s, a rank or a layer is missing, ranks have different
    /// tensors, or a file is malformed.
    pub fn open(path: &Path, given: &[(String, Arg)]) -> Result<Self> {
        let folder = iteration(path)?;
        let Some(format) = format_of(&folder) else {
            let expected = "a Megatron checkpoint (layer_LL-model_TT-model_states.pt files, \
                            mp_rank_TT folders or a .metadata file)";
            return Err(BadInput::new(folder, expected, "none of these").into());
        };
        let (source, ranks, args): (Box<dyn Source>, _, _) = match format {
            Format::DeepSpeed => {
                let (source, ranks, args) = deepspeed::open(&folder)?;
                (Box::new(source), ranks, args)
            }
            Format::Classic => {
                let (source, ranks, args) = classic::open(&folder)?;
                (Box::new(source), ranks, args)
            }
            Format::TorchDist => {
                let (source, args) = torch_dist::open(&folder)?;
                // Chunks know their places, so the number of ranks is only in the arguments.
                let ranks = args.optional_size("tensor_model_parallel_size")?;
                (Box::new(source), ranks.unwrap_or(1), args)
            }
        };
        let listed = source
            .list()
            .into_iter()
            .map(|tensor| (tensor.name.clone(), tensor));
        Ok(Self {
            folder,
            format,
            ranks,
            args: args.overridden(given),
            listed: listed.collect(),
            source,
        })
    }

    /// The same without arguments of which the user knows that they are without effect.
    ///
    /// # Errors
    /// [`BadInput`] if it holds none of such a name.
    pub fn without_arguments(self, names: &[String]) -> Result<Self> {
        let args = self.args.without(names)?;
        Ok(Self { args, ..self })
    }

    /// The folder of the iteration.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// How it lies on disk.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Tensor-parallel ranks that trained it.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// The training run's arguments.
    pub fn args(&self) -> &Args {
        &self.args
    }

    /// What to say of names that wrappers of modules lengthened; `None` if none is.
    pub(crate) fn wrapped(&self) -> Option<String> {
        let is_bare = |listed: &&Listed| bare(&listed.key) == listed.key;
        let wrapped = self.tensors().filter(|listed| !is_bare(listed));
        note(wrapped.map(|listed| (listed.key.as_str(), listed.name.as_str())))
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = &Listed> {
        self.listed.values()
    }

    /// What is known of a tensor.
    pub fn get(&self, name: &str) -> Option<&Listed> {
        self.listed.get(name)
    }

    /// A tensor with its shards joined. Nothing is copied, except replicas that have to be averaged.
    ///
    /// # Errors
    /// If there is no such tensor, its shards do not fit together, or a file is malformed.
    pub fn joined(&self, name: &str, partition: Partition) -> Result<Joined> {
        match self.source.tensor(name)? {
            Some(sharded) => sharded.joined(&self.folder, name, partition),
            None => Err(BadInput::new(&self.folder, format!("the tensor {name}"), "none").into()),
        }
    }
}

/// Files that name the latest iteration's folder.
const TRACKERS: [&str; 2] = ["latest", "latest_checkpointed_iteration.txt"];

fn format_of(folder: &Path) -> Option<Format> {
    if torch_dist::recognises(folder) {
        Some(Format::TorchDist)
    } else if classic::recognises(folder) {
        Some(Format::Classic)
    } else if deepspeed::recognises(folder) {
        Some(Format::DeepSpeed)
    } else {
        None
    }
}

/// The folder of the iteration: `path` itself, the one that a tracker in it names, or the only one
/// in it.
fn iteration(path: &Path) -> Result<PathBuf> {
    path.metadata().map_err(Error::io(path, "open"))?;
    if format_of(path).is_some() {
        return Ok(path.to_owned());
    }
    for tracker in TRACKERS {
        let tracker = path.join(tracker);
        if !tracker.is_file() {
            continue;
        }
        let file = MappedFile::open(&tracker)?;
        let text = String::from_utf8_lossy(&file[..file.len().min(256)]);
        let text = text.trim();
        let name = match text.parse::<u64>() {
            Ok(iteration) => format!("iter_{iteration:07}"),
            Err(_) => text.to_owned(),
        };
        // Data from elsewhere may name only folders beside it.
        if Path::new(&name).components().count() != 1 || name.starts_with('.') {
            let expected = "an iteration or the name of a folder beside it";
            return Err(BadInput::new(tracker, expected, format!("{name:?}")).into());
        }
        let folder = path.join(name);
        if !folder.is_dir() {
            let expected = format!("the folder {}, which the tracker names", folder.display());
            return Err(BadInput::new(tracker, expected, "none").into());
        }
        return Ok(folder);
    }
    match iterations(path).as_slice() {
        [] => Ok(path.to_owned()),
        [only] => Ok(only.clone()),
        [first, .., last] => {
            let expected = "one iteration, or a file that names the latest";
            let found = format!("{} to {}", first.display(), last.display());
            Err(BadInput::new(path, expected, found)
                .remedy("name one of them")
                .into())
        }
    }
}

/// Folders of iterations in a folder, in order of their names.
fn iterations(path: &Path) -> Vec<PathBuf> {
    let entries = path.read_dir().into_iter().flatten().flatten();
    let named = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_step = ["global_step", "iter_"]
            .iter()
            .any(|step| name.starts_with(step));
        // Of a conversion, and NeMo's.
        is_step || ["release", "weights"].contains(&&*name)
    });
    let mut found: Vec<PathBuf> = named.filter(|path| format_of(path).is_some()).collect();
    found.sort();
    found
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DeepSpeed => "Megatron-DeepSpeed",
            Self::Classic => "Megatron-LM (torch)",
            Self::TorchDist => "Megatron-LM (torch_dist)",
        })
    }
}
