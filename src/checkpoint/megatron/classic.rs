//! Megatron-LM's classic checkpoints: one file a tensor- and pipeline-parallel rank.
//!
//! `mp_rank_TT/model_optim_rng.pt`, or `mp_rank_TT_PPP/…` with a pipeline. The file is a dictionary
//! with the `model`'s tensors and the training `args`. A pipeline stage counts its layers from 0.

use super::Args;
use super::names::{LAYERS, canonical, is_extra_state, layer_and_rest, number};
use super::shards::{Listed, Sharded, Source, same_keys};
use crate::checkpoint::torch::{StateDict, TorchFile};
use crate::checkpoint::wrapped::bare;
use crate::error::{BadInput, Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of the file in a rank's folder; the second without an optimizer of its own.
const FILES: [&str; 2] = ["model_optim_rng.pt", "model_rng.pt"];

/// Where a tensor lies: a pipeline stage, and the key in its files.
struct Place {
    stage: usize,
    key: String,
}

pub(super) struct Classic {
    /// Files by pipeline stage, then tensor-parallel rank.
    stages: Vec<Vec<StateDict>>,
    tensors: BTreeMap<String, Place>,
}

/// Whether a folder is `iter_N` of such a checkpoint.
pub(super) fn recognises(folder: &Path) -> bool {
    let Ok(entries) = folder.read_dir() else {
        return false;
    };
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.any(|name| name.starts_with("mp_rank_") && folder.join(name).is_dir())
}

/// Opens the checkpoint in `folder`. Returns the number of ranks and the arguments, too.
pub(super) fn open(folder: &Path) -> Result<(Classic, usize, Args)> {
    let mut files: BTreeMap<(usize, usize), PathBuf> = BTreeMap::new();
    for entry in folder.read_dir().map_err(Error::io(folder, "list"))? {
        let path = entry.map_err(Error::io(folder, "list"))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_prefix("mp_rank_")) else {
            continue;
        };
        let Some((rank, stage)) = rank_and_stage(name) else {
            let expected = "folders mp_rank_TT or mp_rank_TT_PPP";
            let fault = BadInput::new(folder, expected, format!("mp_rank_{name}"));
            return Err(fault
                .remedy("expert-parallel checkpoints have a third number and are not supported")
                .into());
        };
        files.insert((stage, rank), path);
    }
    let ranks = files.keys().map(|(_, rank)| rank + 1).max().unwrap_or(0);
    let pipeline = files.keys().map(|(stage, _)| stage + 1).max().unwrap_or(0);
    let mut stages = Vec::new();
    for stage in 0..pipeline {
        let mut of_stage = Vec::new();
        for rank in 0..ranks {
            let Some(path) = files.get(&(stage, rank)) else {
                let expected = match pipeline {
                    1 => format!("mp_rank_{rank:02}"),
                    _ => format!("mp_rank_{rank:02}_{stage:03}"),
                };
                let found = format!("{} folders of {ranks} × {pipeline} ranks", files.len());
                return Err(BadInput::new(folder, expected, found)
                    .remedy("copy the folders of every rank")
                    .into());
            };
            let file = FILES
                .iter()
                .map(|name| path.join(name))
                .find(|path| path.exists());
            let Some(file) = file else {
                let expected = format!("{} or {}", FILES[0], FILES[1]);
                return Err(BadInput::new(path, expected, "neither").into());
            };
            let file = TorchFile::open(file)?;
            model(&file)?;
            of_stage.push(StateDict::new(file, |root| root.get("model")));
        }
        stages.push(of_stage);
    }
    let tensors = named(&stages)?;
    let first = &stages[0][0];
    let args = first.root().get("args");
    let args = args.map_or_else(
        || Args::none(first.path()),
        |args| Args::from_node(first.path(), args),
    );
    Ok((Classic { stages, tensors }, ranks, args))
}

/// `01` → 1 and 0; `01_002` → 1 and 2.
fn rank_and_stage(name: &str) -> Option<(usize, usize)> {
    match name.split_once('_') {
        Some((rank, stage)) => Some((number(rank)?, number(stage)?)),
        None => Some((number(name)?, 0)),
    }
}

/// Checks that a file holds a model of megatron-core.
fn model(file: &TorchFile) -> Result<()> {
    let fault = |found: String, remedy: &str| -> Error {
        let expected = "a megatron-core model under the key \"model\"";
        BadInput::new(file.path(), expected, found)
            .remedy(remedy)
            .into()
    };
    if file.root().get("model0").is_some() {
        let remedy = "save it without virtual pipeline stages";
        return Err(fault(
            "\"model0\": interleaved pipeline stages".into(),
            remedy,
        ));
    }
    let Some(model) = file.root().get("model") else {
        let keys = file.root().entries().into_iter().flatten();
        let keys: Vec<_> = keys.filter_map(|(key, _)| key.text()).take(8).collect();
        return Err(fault(
            format!("the keys {keys:?}"),
            "is this a Megatron checkpoint?",
        ));
    };
    if model.get("language_model").is_some() {
        let remedy = "convert it with Megatron-LM's tools/checkpoint/convert.py first";
        return Err(fault(
            "\"language_model\": a model from before megatron-core".into(),
            remedy,
        ));
    }
    Ok(())
}

fn named(stages: &[Vec<StateDict>]) -> Result<BTreeMap<String, Place>> {
    let mut tensors: BTreeMap<String, Place> = BTreeMap::new();
    let mut first_layer = 0_usize;
    for (stage, ranks) in stages.iter().enumerate() {
        same_keys(ranks)?;
        let mut layers = 0;
        for key in ranks[0].keys().filter(|key| !is_extra_state(key)) {
            let mut name = bare(key);
            if let Some((layer, rest)) = layer_and_rest(&name) {
                layers = layers.max(layer.saturating_add(1));
                name = format!("{LAYERS}{}.{rest}", first_layer.saturating_add(layer));
            }
            let place = Place {
                stage,
                key: key.to_owned(),
            };
            let name = canonical(&name);
            match tensors.get(&name) {
                Some(Place {
                    stage: other,
                    key: first,
                }) if *other == stage => {
                    let file = ranks[0].path();
                    let found = format!("{first} and {key}");
                    return Err(BadInput::new(file, format!("one tensor {name}"), found).into());
                }
                // The last stage of a pipeline has a copy of tied embeddings: the first one's count.
                Some(_) => {}
                None => {
                    tensors.insert(name, place);
                }
            }
        }
        first_layer = first_layer.saturating_add(layers);
    }
    Ok(tensors)
}

impl Source for Classic {
    fn list(&self) -> Vec<Listed> {
        let listed = self.tensors.iter().filter_map(|(name, place)| {
            let ranks = &self.stages[place.stage];
            let record = ranks[0].record(&place.key)?;
            let file = ranks[0].path();
            // All files have one name; the folder says which it is.
            Some(Listed::new(
                [name, &place.key],
                &record,
                ranks.len(),
                file.parent().unwrap_or(file),
            ))
        });
        listed.collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Sharded>> {
        let Some(place) = self.tensors.get(name) else {
            return Ok(None);
        };
        let ranks = self.stages[place.stage].iter();
        let parts = ranks.filter_map(|rank| rank.strided(&place.key).transpose());
        Ok(Some(Sharded::Ranks(parts.collect::<Result<_>>()?)))
    }
}
