//! `parity convert`: a checkpoint into a folder of transformers.

use super::converted::Converted;
use super::sharding::{ByteSize, CONFIG, INDEX, SINGLE, Shard, is_weights, shards};
use super::verify::verify;
use super::writer::{data_len, header, write_tensor};
use crate::error::{BadInput, Error, Result};
use crate::output::{Existing, OutputFile, OutputFolder};
use crate::tensor::{DType, unchanged_in};
use rayon::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

/// How a model is written.
#[derive(Clone, Debug)]
pub struct Options {
    /// Storage type; the checkpoint's if `None`.
    pub dtype: Option<DType>,
    /// Largest file of weights; a larger tensor has a file of its own.
    pub max_shard_size: ByteSize,
    /// Whether a model that is in the folder is replaced.
    pub force: bool,
    /// Whether the folder is read back and proved against the shards.
    pub verify: bool,
}

/// What goes on; from any thread.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// This many bytes will be written.
    Writing {
        /// All of them.
        total: u64,
    },
    /// This many bytes will be read back.
    Verifying {
        /// All of them.
        total: u64,
    },
    /// So many bytes were written or read back.
    Bytes(u64),
    /// That was all.
    Finished,
}

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Storage type of the model.
    pub dtype: DType,
    /// Number of tensors.
    pub tensors: usize,
    /// Files of weights.
    pub files: usize,
    /// Files that an earlier, unfinished run had written.
    pub resumed: usize,
    /// Bytes of weights.
    pub bytes: u64,
    /// Whether every element was proved against the shards.
    pub verified: bool,
}

/// Writes the converted model to the folder `output`.
///
/// Memory does not grow with the model: weights are copied from the mapped shards in pieces of a
/// few MiB, one file a thread.
///
/// # Errors
/// If `output` holds files and [`Options::force`] is not set, the disk is full, the system refuses
/// to write, or a value does not fit the storage type. `output` is untouched then; files that were
/// complete are kept beside it for the next run.
pub fn convert(
    model: &Converted,
    output: &Path,
    options: &Options,
    on: &(dyn Fn(Event) + Sync),
) -> Result<Report> {
    let asked = options.dtype;
    let dtype = asked.unwrap_or(model.dtype());
    if !dtype.is_runnable() {
        let expected = "fp32, fp16 or bf16 to store a model in";
        return Err(BadInput::new(output, expected, dtype.to_string()).into());
    }
    let shards = shards(model.tensors(), asked, options.max_shard_size);
    let total: u64 = shards.iter().map(|shard| data_len(shard, asked)).sum();
    let fingerprint = fingerprint(model, asked, options.max_shard_size)?;
    let mut files: Vec<String> = shards.iter().map(|shard| shard.file.clone()).collect();
    files.push(CONFIG.to_owned());
    if shards.len() > 1 {
        files.push(INDEX.to_owned());
    }
    let existing = match options.force {
        true => Existing::Replaced,
        false => Existing::Refused("name another, or give --force to replace the model in it"),
    };
    let folder = OutputFolder::create(output, &files, &fingerprint, existing)?;
    let (done, missing): (Vec<&Shard<'_>>, Vec<&Shard<'_>>) = shards
        .iter()
        .partition(|shard| is_complete(&folder.path().join(&shard.file), shard, asked));
    let size = |shards: &[&Shard<'_>]| shards.iter().map(|s| data_len(s, asked)).sum::<u64>();
    folder.check_space(size(&missing))?;
    on(Event::Writing { total });
    on(Event::Bytes(size(&done)));
    missing.par_iter().try_for_each(|shard| {
        write_shard(&folder, shard, asked, &|bytes| on(Event::Bytes(bytes)))
    })?;

    if !folder.is_whole() {
        let config = serde_json::Value::Object(model.config_json(dtype));
        write_json(&folder, CONFIG, &config)?;
        if shards.len() > 1 {
            write_json(&folder, INDEX, &index(&shards, total))?;
        }
    }
    if options.verify {
        on(Event::Verifying { total });
        verify(folder.path(), model.tensors(), asked, &|bytes| {
            on(Event::Bytes(bytes))
        })?;
    }
    unchanged_in(model.checkpoint().path())?;
    folder.commit(options.force.then_some(&is_weights))?;
    on(Event::Finished);
    Ok(Report {
        dtype,
        tensors: model.tensors().len(),
        files: shards.len(),
        resumed: done.len(),
        bytes: total,
        verified: options.verify,
    })
}

/// Writes a file of weights.
fn write_shard(
    folder: &OutputFolder,
    shard: &Shard<'_>,
    asked: Option<DType>,
    on: &dyn Fn(u64),
) -> Result<()> {
    let path = folder.file(&shard.file)?;
    let mut file = OutputFile::create(&path)?;
    file.write_all(&header(shard, asked))
        .map_err(Error::io(&path, "write"))?;
    for tensor in &shard.tensors {
        write_tensor(&mut file, &path, tensor, asked, on)?;
    }
    file.commit()
}

/// Whether a file of weights is there: with its header and as much data as that promises. Files are
/// renamed into place when they are complete, so that is enough.
fn is_complete(path: &Path, shard: &Shard<'_>, asked: Option<DType>) -> bool {
    let Ok(mut file) = File::open(path) else {
        return false;
    };
    let header = header(shard, asked);
    let whole = header.len() as u64 + data_len(shard, asked);
    let mut found = vec![0; header.len()];
    file.metadata().is_ok_and(|kind| kind.len() == whole)
        && file.read_exact(&mut found).is_ok()
        && found == header
}

fn write_json(folder: &OutputFolder, name: &str, value: &serde_json::Value) -> Result<()> {
    let mut file = OutputFile::create(folder.file(name)?)?;
    let written = file.write_all(format!("{value:#}\n").as_bytes());
    written.map_err(Error::io(file.path(), "write"))?;
    file.commit()
}

/// `model.safetensors.index.json`.
fn index(shards: &[Shard<'_>], total: u64) -> serde_json::Value {
    let places = shards.iter().flat_map(|shard| {
        let tensors = shard.tensors.iter();
        tensors.map(|tensor| (tensor.name.as_str(), shard.file.as_str()))
    });
    let places: BTreeMap<&str, &str> = places.collect();
    json!({ "metadata": { "total_size": total }, "weight_map": places })
}

/// What makes two runs write the same files: the checkpoint's files by size and time, and the
/// options.
fn fingerprint(model: &Converted, asked: Option<DType>, largest: ByteSize) -> Result<String> {
    let folder = model.checkpoint().path();
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().map_err(Error::io(&folder, "list"))? {
            let path = entry.map_err(Error::io(&folder, "list"))?.path();
            let kind = path.symlink_metadata().map_err(Error::io(&path, "read"))?;
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let modified = kind.modified().ok();
            let age = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            let age = age.map_or(0, |age| age.as_nanos());
            let changed = changed(&kind);
            files.push((
                path.display().to_string(),
                kind.len(),
                age.to_string(),
                changed,
            ));
        }
    }
    files.sort();
    // How every element gets to its place: names, sources, shards, moves of axes.
    let recipe = format!("{:?}", model.recipe().tensors);
    let fingerprint = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "checkpoint": files,
        "recipe": blake3::hash(recipe.as_bytes()).to_string(),
        "config": model.config_json(asked.unwrap_or(model.dtype())),
        "dtype": asked.map(|dtype| dtype.to_string()),
        "max_shard_size": largest.0,
        "single": SINGLE,
    });
    Ok(blake3::hash(fingerprint.to_string().as_bytes()).to_string())
}

/// When a file was last changed in any way, which nobody can set; `None` where the system does not say.
fn changed(file: &fs::Metadata) -> Option<String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some(format!("{}.{}", file.ctime(), file.ctime_nsec()))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        None
    }
}
