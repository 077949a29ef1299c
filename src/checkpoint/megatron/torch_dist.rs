//! megatron-core's distributed checkpoints (`torch_dist`, torch's DCP).
//!
//! `.metadata` is one pickle: for every tensor its size and chunks (`state_dict_metadata`), and for
//! every chunk the part of a `.distcp` file that holds it (`storage_data`), which is a small
//! `torch.save` file of its own. Layers are stacked: `decoder.layers.mlp.linear_fc1.weight` has one
//! index more, the layer. The training arguments are in `common.pt` (megatron-core up to 0.16) or
//! in an item `common_state/…` (0.19).

use super::Args;
use super::names::{LAYERS, canonical, is_extra_state, layer_and_rest};
use super::shards::{Listed, Sharded, Source};
use crate::checkpoint::torch::{Node, Pickle, TensorRecord, TorchFile};
use crate::checkpoint::wrapped::bare;
use crate::error::{BadInput, Error, Result};
use crate::tensor::{DType, MappedFile, Tile, Tiled};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

const METADATA: &str = ".metadata";
/// Largest `.metadata` believed. That of a model of 10^12 parameters on 1024 ranks is well below.
const MAX_METADATA: usize = 1 << 30;
/// Most layers that a stack is believed to have.
const MAX_LAYERS: usize = 10_000;
/// Most tensors that stacks are taken apart into.
const MAX_TENSORS: usize = 500_000;
/// Most pairs of a layer and a chunk that are looked at for one stack.
const MAX_PLACES: usize = 50_000_000;
/// How often the bytes of files may be named by items, as one that is a tensor and a part of another.
const NAMED: u64 = 4;
/// Items of a checkpoint that are not the model.
const OTHERS: [&str; 5] = [
    "optimizer",
    "chained_",
    "rng_state",
    "rerun_state",
    "opt_param",
];

/// A chunk: its place in the tensor, and the part of a file that holds it.
#[derive(Clone)]
struct Chunk {
    at: Vec<usize>,
    sizes: Vec<usize>,
    file: String,
    part: Range<usize>,
}

/// A tensor as `.metadata` describes it.
struct Entry {
    key: String,
    dtype: Result<DType, String>,
    shape: Vec<usize>,
    chunks: Vec<Chunk>,
}

/// Where a named tensor lies: an entry, and which layer of it.
struct Place {
    entry: usize,
    layer: Option<usize>,
}

pub(super) struct TorchDist {
    folder: PathBuf,
    files: BTreeMap<String, MappedFile>,
    entries: Vec<Entry>,
    tensors: BTreeMap<String, Place>,
}

/// Whether a folder is `iter_N` of such a checkpoint.
pub(super) fn recognises(folder: &Path) -> bool {
    folder.join(METADATA).is_file()
}

/// Opens the checkpoint in `folder`. Returns the arguments, too.
pub(super) fn open(folder: &Path) -> Result<(TorchDist, Args)> {
    let path = folder.join(METADATA);
    let file = MappedFile::open(&path)?;
    if file.len() > MAX_METADATA {
        let expected = format!("a .metadata of at most {MAX_METADATA} bytes");
        return Err(BadInput::new(path, expected, file.len().to_string()).into());
    }
    let (pickle, _) = Pickle::read(&file).map_err(|e| {
        let fault = BadInput::new(&path, e.expected, e.found);
        fault.at(format!("byte {}", e.at))
    })?;
    let metadata = Metadata {
        path: &path,
        root: pickle.root(),
    };
    let storage = metadata.storage()?;
    let files = storage.values().flatten().map(|stored| stored.file.clone());
    let files = files.collect::<std::collections::BTreeSet<String>>();
    let files = files.into_iter().map(|name| {
        let file = MappedFile::open(folder.join(&name))?;
        Ok((name, file))
    });
    let files: BTreeMap<String, MappedFile> = files.collect::<Result<_>>()?;
    // Each is parsed where it is named.
    let named = storage
        .values()
        .flatten()
        .map(|stored| stored.part.len() as u64);
    let held: u64 = files.values().map(|file| file.len() as u64).sum();
    let named = named.fold(0, u64::saturating_add);
    if named > held.saturating_mul(NAMED) {
        let expected = format!("items of {held} bytes in all, as the files have");
        return Err(metadata.fault("storage_data", &expected, format!("{named} bytes")));
    }
    let (entries, tensors) = metadata.tensors(&storage)?;
    let args = args(folder, &files, &storage)?;
    let checkpoint = TorchDist {
        folder: folder.to_owned(),
        files,
        entries,
        tensors,
    };
    Ok((checkpoint, args))
}

/// A part of a file that holds an item, and the item's place in its tensor if it is of one.
struct Stored {
    at: Option<Vec<usize>>,
    file: String,
    part: Range<usize>,
}

/// Items by name.
type Storage = BTreeMap<String, Vec<Stored>>;

struct Metadata<'a> {
    path: &'a Path,
    root: Node<'a>,
}

impl<'a> Metadata<'a> {
    fn fault(&self, at: &str, expected: &str, found: String) -> Error {
        BadInput::new(self.path, expected, found).at(at).into()
    }

    fn dictionary(&self, name: &str) -> Result<impl Iterator<Item = (Node<'a>, Node<'a>)> + 'a> {
        let entries = self.root.field(name).and_then(Node::entries);
        entries.ok_or_else(|| self.fault(name, "a dictionary", "none".into()))
    }

    fn storage(&self) -> Result<Storage> {
        let mut storage = Storage::new();
        for (index, info) in self.dictionary("storage_data")? {
            let Some(name) = index.field("fqn").and_then(Node::text) else {
                return Err(self.fault(
                    "storage_data",
                    "names of items",
                    index.shown().to_string(),
                ));
            };
            let fault = |expected: &str, found: Node<'_>| {
                self.fault(name, expected, found.shown().to_string())
            };
            let size = |field| {
                let value = info.field(field).and_then(Node::int);
                value.and_then(|value| usize::try_from(value).ok())
            };
            let file = info.field("relative_path").and_then(Node::text);
            let (Some(file), Some(offset), Some(length)) = (file, size("offset"), size("length"))
            else {
                return Err(fault("a file, an offset and a length", info));
            };
            // Data from elsewhere may name only files beside it.
            if Path::new(file).components().count() != 1 || file.starts_with('.') {
                return Err(self.fault(name, "the name of a file beside it", file.to_owned()));
            }
            if let Some(transforms) = info.field("transform_descriptors")
                && !transforms.is_none()
                && transforms
                    .elements()
                    .is_none_or(|mut list| list.next().is_some())
            {
                return Err(fault("chunks stored as they are", transforms));
            }
            let end = offset.checked_add(length);
            let Some(end) = end else {
                return Err(fault("a part of a file", info));
            };
            let at = match index.field("offset") {
                None => None,
                Some(offset) if offset.is_none() => None,
                Some(offset) => match offset.sizes() {
                    Some(at) => Some(at),
                    None => return Err(fault("an offset in a tensor", offset)),
                },
            };
            storage.entry(name.to_owned()).or_default().push(Stored {
                at,
                file: file.to_owned(),
                part: offset..end,
            });
        }
        Ok(storage)
    }

    /// The model's tensors, stacks of layers taken apart.
    fn tensors(&self, storage: &Storage) -> Result<(Vec<Entry>, BTreeMap<String, Place>)> {
        let mut entries = Vec::new();
        let mut tensors = BTreeMap::new();
        for (name, described) in self.dictionary("state_dict_metadata")? {
            let Some(name) = name.text() else {
                return Err(self.fault("state_dict_metadata", "names", name.shown().to_string()));
            };
            let is_tensor = described
                .class()
                .is_some_and(|(_, c)| c == "TensorStorageMetadata");
            let is_other = OTHERS.iter().any(|other| name.starts_with(other));
            if !is_tensor || is_other || is_extra_state(name) {
                continue;
            }
            let entry = self.entry(
                name,
                described,
                storage.get(name).map_or(&[], Vec::as_slice),
            )?;
            let number = entries.len();
            let bare = bare(name);
            let stacked = bare
                .strip_prefix(LAYERS)
                .filter(|_| layer_and_rest(&bare).is_none());
            let layers = stacked.and(entry.shape.first()).copied().unwrap_or(1);
            let chunks = entry.chunks.len();
            if layers <= MAX_LAYERS
                && (tensors.len() + layers > MAX_TENSORS
                    || layers * chunks.min(MAX_PLACES) > MAX_PLACES)
            {
                let expected =
                    format!("at most {MAX_TENSORS} tensors, in as few chunks as ranks make");
                let found = format!(
                    "{layers} layers in {chunks} chunks after {} tensors",
                    tensors.len()
                );
                return Err(self.fault(name, &expected, found));
            }
            let mut insert = |name: String, layer| {
                let place = Place {
                    entry: number,
                    layer,
                };
                match tensors.insert(canonical(&name), place) {
                    None => Ok(()),
                    Some(_) => Err(self.fault(&name, "every tensor once", "it twice".into())),
                }
            };
            match (stacked, entry.shape.first()) {
                (Some(_), Some(layers)) if *layers > MAX_LAYERS => {
                    let expected = format!("at most {MAX_LAYERS} layers");
                    return Err(self.fault(name, &expected, layers.to_string()));
                }
                (Some(rest), Some(layers)) => {
                    for layer in 0..*layers {
                        insert(format!("{LAYERS}{layer}.{rest}"), Some(layer))?;
                    }
                }
                _ => insert(bare.clone(), None)?,
            }
            entries.push(entry);
        }
        Ok((entries, tensors))
    }

    fn entry(&self, name: &str, described: Node<'_>, stored: &[Stored]) -> Result<Entry> {
        let fault = |expected: &str, found: String| self.fault(name, expected, found);
        let shape = described.field("size").and_then(Node::sizes);
        let chunks = described.field("chunks").and_then(Node::elements);
        let (Some(shape), Some(chunks)) = (shape, chunks) else {
            return Err(fault("a size and chunks", described.shown().to_string()));
        };
        let by_place: BTreeMap<&[usize], &Stored> = stored
            .iter()
            .filter_map(|stored| Some((stored.at.as_deref()?, stored)))
            .collect();
        let mut found = Vec::new();
        for chunk in chunks {
            let at = chunk.field("offsets").and_then(Node::sizes);
            let sizes = chunk.field("sizes").and_then(Node::sizes);
            let (Some(at), Some(sizes)) = (at, sizes) else {
                return Err(fault(
                    "offsets and sizes of a chunk",
                    chunk.shown().to_string(),
                ));
            };
            if at.len() != shape.len() || sizes.len() != shape.len() {
                let expected = format!("chunks with {} axes", shape.len());
                return Err(fault(
                    &expected,
                    format!("one of shape {sizes:?} at {at:?}"),
                ));
            }
            let Some(stored) = by_place.get(at.as_slice()) else {
                return Err(fault("a place for every chunk", format!("none for {at:?}")));
            };
            found.push(Chunk {
                at,
                sizes,
                file: stored.file.clone(),
                part: stored.part.clone(),
            });
        }
        Ok(Entry {
            key: name.to_owned(),
            dtype: dtype(described.field("properties")),
            shape,
            chunks: found,
        })
    }
}

/// The dtype among a tensor's properties: the first of a tuple, or an attribute, by the version of
/// torch.
fn dtype(properties: Option<Node<'_>>) -> Result<DType, String> {
    let state = properties.and_then(Node::state);
    let dtype = state.and_then(|state| match state.elements() {
        Some(mut tuple) => tuple.next(),
        None => state.get("dtype"),
    });
    let (_, name) = dtype.and_then(Node::global).unwrap_or_default();
    name.parse().map_err(|_| name.to_owned())
}

/// The training arguments: from `common.pt`, or from the item that took its place.
fn args(folder: &Path, files: &BTreeMap<String, MappedFile>, storage: &Storage) -> Result<Args> {
    let common = folder.join("common.pt");
    if common.exists() {
        let file = TorchFile::open(&common)?;
        let args = file.root().get("args");
        return Ok(args.map_or_else(
            || Args::none(&common),
            |args| Args::from_node(&common, args),
        ));
    }
    let items = storage
        .iter()
        .filter(|(name, _)| name.starts_with("common_state"));
    for stored in items.flat_map(|(_, parts)| parts) {
        let file = TorchFile::from_mapped(files[&stored.file].clone(), stored.part.clone())?;
        let root = file.root();
        // The state itself, or a list of the states of all ranks.
        let first = root.elements().and_then(|mut list| list.next());
        if let Some(args) = first.unwrap_or(root).get("args") {
            return Ok(Args::from_node(&folder.join(&stored.file), args));
        }
    }
    Ok(Args::none(&common))
}

impl Source for TorchDist {
    fn list(&self) -> Vec<Listed> {
        let listed = self.tensors.iter().map(|(name, place)| {
            let entry = &self.entries[place.entry];
            let layers = place.layer.is_some();
            let pieces = match place.layer {
                Some(layer) => entry.of_layer(layer).count(),
                None => entry.chunks.len(),
            };
            Listed {
                name: name.clone(),
                key: entry.key.clone(),
                dtype: entry.dtype.clone(),
                shape: entry.shape[usize::from(layers)..].to_vec(),
                pieces,
                file: entry
                    .chunks
                    .first()
                    .map_or(String::new(), |chunk| chunk.file.clone()),
            }
        });
        listed.collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Sharded>> {
        let Some(place) = self.tensors.get(name) else {
            return Ok(None);
        };
        let entry = &self.entries[place.entry];
        let dtype = entry.dtype.clone().map_err(|other| {
            let expected = "a tensor of floats, integers or booleans";
            BadInput::new(self.folder.join(METADATA), expected, other).at(name)
        })?;
        let chunks: Vec<&Chunk> = match place.layer {
            Some(layer) => entry.of_layer(layer).collect(),
            None => entry.chunks.iter().collect(),
        };
        let tiles = chunks.into_iter().map(|chunk| {
            let tile = self.tile(name, chunk)?;
            match place.layer {
                // Only the layer's part of the chunk, on axes without the layer's.
                Some(layer) => Ok(tile.indexed(0, layer)),
                None => Ok(Some(tile)),
            }
        });
        let tiles = tiles
            .filter_map(Result::transpose)
            .collect::<Result<Vec<_>>>()?;
        let shape = &entry.shape[usize::from(place.layer.is_some())..];
        let whole = Tiled::new(dtype, shape, tiles).map_err(|e| match e {
            Error::Mismatch {
                expected, found, ..
            } => {
                let path = self.folder.join(METADATA);
                BadInput::new(path, expected, found).at(name).into()
            }
            other => other,
        })?;
        Ok(Some(Sharded::Whole(whole)))
    }
}

impl Entry {
    fn of_layer(&self, layer: usize) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter().filter(move |chunk| {
            let (start, extent) = (chunk.at.first(), chunk.sizes.first());
            let (start, extent) = (start.copied().unwrap_or(0), extent.copied().unwrap_or(0));
            (start..start.saturating_add(extent)).contains(&layer)
        })
    }
}

impl TorchDist {
    /// A chunk, opened.
    fn tile(&self, name: &str, chunk: &Chunk) -> Result<Tile> {
        let file = &self.files[&chunk.file];
        let fault = |expected: String, found: String| -> Error {
            BadInput::new(file.path(), expected, found).at(name).into()
        };
        let held = TorchFile::from_mapped(file.clone(), chunk.part.clone())?;
        let Some(record) = TensorRecord::from_node(held.root()) else {
            return Err(fault("a tensor".into(), held.root().shown().to_string()));
        };
        let part = held.strided(name, &record)?;
        if part.shape() != chunk.sizes {
            let expected = format!("a chunk of shape {:?}", chunk.sizes);
            return Err(fault(expected, format!("{:?}", part.shape())));
        }
        Ok(Tile {
            at: chunk.at.clone(),
            part,
        })
    }
}
