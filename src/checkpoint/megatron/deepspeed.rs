//! Megatron-DeepSpeed's pipeline checkpoints.
//!
//! Every layer of the pipeline's layer list has a file for each tensor-parallel rank:
//! `layer_LL-model_TT-model_states.pt`, a dictionary of tensors. What a layer is shows in its keys:
//! the embeddings have `word_embeddings.weight`, a block `self_attention.query_key_value.weight`,
//! the final norm just `weight` and `bias`. The training arguments are in
//! `mp_rank_TT_model_states.pt`.

use super::Args;
use super::names::number;
use super::shards::{Listed, Sharded, Source, same_keys};
use crate::checkpoint::torch::{StateDict, TorchFile};
use crate::checkpoint::wrapped::bare;
use crate::error::{BadInput, Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of one layer, in rank order.
struct Layer {
    number: usize,
    ranks: Vec<StateDict>,
}

/// Where a tensor lies: a layer, and the key in its files.
struct Place {
    layer: usize,
    key: String,
}

pub(super) struct DeepSpeed {
    layers: Vec<Layer>,
    tensors: BTreeMap<String, Place>,
}

/// Whether a folder is `global_stepN` of such a checkpoint.
pub(super) fn recognises(folder: &Path) -> bool {
    let Ok(entries) = folder.read_dir() else {
        return false;
    };
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.any(|name| layer_and_rank(&name).is_some())
}

/// Opens the checkpoint in `folder`. Returns the number of ranks and the arguments, too.
pub(super) fn open(folder: &Path) -> Result<(DeepSpeed, usize, Args)> {
    let mut files: BTreeMap<usize, BTreeMap<usize, PathBuf>> = BTreeMap::new();
    for entry in folder.read_dir().map_err(Error::io(folder, "list"))? {
        let path = entry.map_err(Error::io(folder, "list"))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((layer, rank)) = name.and_then(layer_and_rank) {
            let files = files.entry(layer).or_default();
            if let Some(other) = files.insert(rank, path.clone()) {
                let expected = format!("one file of layer {layer} and rank {rank}");
                let found = format!("{} as well", other.display());
                let remedy = "remove the one that is not meant";
                return Err(BadInput::new(path, expected, found).remedy(remedy).into());
            }
        }
    }
    let ranks = files
        .values()
        .flat_map(BTreeMap::keys)
        .max()
        .map_or(0, |last| last + 1);
    let mut layers = Vec::new();
    for (number, files) in files {
        let missing = (0..ranks).find(|rank| !files.contains_key(rank));
        if let Some(rank) = missing {
            let expected = format!("layer_{number:02}-model_{rank:02}-model_states.pt");
            let found = format!("ranks {:?} of {ranks}", files.keys().collect::<Vec<_>>());
            return Err(BadInput::new(folder, expected, found)
                .remedy("copy the files of every tensor-parallel rank")
                .into());
        }
        let open = |path| Ok(StateDict::new(TorchFile::open(path)?, |root| Some(root)));
        let ranks = files.into_values().map(open).collect::<Result<_>>()?;
        layers.push(Layer { number, ranks });
    }
    let args = args(folder)?;
    let tensors = named(
        folder,
        &layers,
        args.optional_size("num_layers").ok().flatten(),
    )?;
    Ok((DeepSpeed { layers, tensors }, ranks, args))
}

/// `layer_03-model_01-model_states.pt` → 3 and 1.
fn layer_and_rank(name: &str) -> Option<(usize, usize)> {
    let rest = name
        .strip_prefix("layer_")?
        .strip_suffix("-model_states.pt")?;
    let (layer, rank) = rest.split_once("-model_")?;
    Some((number(layer)?, number(rank)?))
}

/// Every tensor's name and place. `count` is how many blocks there should be, if it is known.
fn named(folder: &Path, layers: &[Layer], count: Option<usize>) -> Result<BTreeMap<String, Place>> {
    let mut tensors = BTreeMap::new();
    let mut norm = None;
    let mut blocks: Vec<usize> = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let keys_of_layer: Vec<&str> = layer.ranks[0].keys().collect();
        same_keys(&layer.ranks)?;
        let names: Vec<String> = keys_of_layer.iter().map(|key| bare(key)).collect();
        let prefix = if names.iter().any(|name| name.starts_with("self_attention.")) {
            if let Some(last) = blocks.last().filter(|last| **last + 1 != layer.number) {
                let expected = format!("files of layer {:02} after layer {last:02}", last + 1);
                let found = format!("layer {:02}", layer.number);
                return Err(BadInput::new(folder, expected, found)
                    .remedy("copy the files of every layer")
                    .into());
            }
            blocks.push(layer.number);
            format!("layers.{}.", blocks.len() - 1)
        } else if names.iter().any(|name| name == "weight") {
            norm = Some(layer.number);
            "final_layernorm.".to_owned()
        } else {
            String::new()
        };
        for (key, name) in keys_of_layer.into_iter().zip(names) {
            let place = Place {
                layer: index,
                key: key.to_owned(),
            };
            let name = format!("{prefix}{name}");
            if tensors.insert(name.clone(), place).is_some() {
                let file = layer.ranks[0].path();
                return Err(
                    BadInput::new(file, "every tensor once", format!("{name} again")).into(),
                );
            }
        }
    }
    let first = count
        .zip(norm)
        .and_then(|(count, norm)| first_block(norm, count));
    if let Some((first, count)) = first.zip(count)
        && blocks.len() < count
        && let Some(missing) = (first..first + count).find(|number| !blocks.contains(number))
    {
        let expected = format!("the files layer_{missing:02}-model_*-model_states.pt");
        let found = format!("{} of {count} layers", blocks.len());
        let fault = BadInput::new(folder, expected, found);
        return Err(fault.remedy("copy the files of every layer").into());
    }
    Ok(tensors)
}

/// The number of the first of so many blocks before this norm. Between the last and the norm is a layer without
/// weights, which has no file.
fn first_block(norm: usize, blocks: usize) -> Option<usize> {
    norm.checked_sub(blocks + 1)
}

fn args(folder: &Path) -> Result<Args> {
    let path = folder.join("mp_rank_00_model_states.pt");
    if !path.exists() {
        return Ok(Args::none(&path));
    }
    let file = TorchFile::open(&path)?;
    let args = file.root().get("args");
    Ok(args.map_or_else(|| Args::none(&path), |args| Args::from_node(&path, args)))
}

impl Source for DeepSpeed {
    fn list(&self) -> Vec<Listed> {
        let listed = self.tensors.iter().filter_map(|(name, place)| {
            let ranks = &self.layers[place.layer].ranks;
            let record = ranks[0].record(&place.key)?;
            let names = [name.as_str(), &place.key];
            Some(Listed::new(names, &record, ranks.len(), ranks[0].path()))
        });
        listed.collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Sharded>> {
        let Some(place) = self.tensors.get(name) else {
            return Ok(None);
        };
        let ranks = self.layers[place.layer].ranks.iter();
        let parts = ranks.filter_map(|rank| rank.strided(&place.key).transpose());
        Ok(Some(Sharded::Ranks(parts.collect::<Result<_>>()?)))
    }
}
