//! Megatron-LM's classic checkpoints: one file a tensor- and pipeline-parallel rank.
//!
//! `mp_rank_TT/model_optim_rng.pt`, or `mp_rank_TT_PPP/…` with a pipeline, `mp_rank_TT_EEE/…` with ranks that have
//! experts of their own, and `mp_rank_TT_PPP_EEE/…` with both. The file is a dictionary with the `model`'s tensors and
//! the training `args`; of interleaved stages with `model0`, `model1`, …, which come one after the other through all
//! ranks. A pipeline stage counts its layers from 0, and a rank its experts.

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

/// Where a tensor lies: a pipeline stage, the ranks that have it, and the key in their files.
struct Place {
    stage: usize,
    expert_rank: usize,
    key: String,
}

/// A stage's files by rank of experts, then tensor-parallel rank.
type Stage = Vec<Vec<StateDict>>;

pub(super) struct Classic {
    /// In the order of the layers.
    stages: Vec<Stage>,
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
    let mut folders: BTreeMap<[usize; 3], PathBuf> = BTreeMap::new();
    let mut is_ambiguous = false;
    for entry in folder.read_dir().map_err(Error::io(folder, "list"))? {
        let path = entry.map_err(Error::io(folder, "list"))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_prefix("mp_rank_")) else {
            continue;
        };
        let numbers: Option<Vec<usize>> = name.split('_').map(number).collect();
        let place = match numbers.as_deref() {
            Some(&[rank]) => [rank, 0, 0],
            Some(&[rank, other]) => {
                is_ambiguous = true;
                [rank, other, 0]
            }
            Some(&[rank, stage, expert]) => [rank, stage, expert],
            _ => {
                let expected =
                    "folders mp_rank_TT, mp_rank_TT_PPP, mp_rank_TT_EEE or mp_rank_TT_PPP_EEE";
                return Err(BadInput::new(folder, expected, format!("mp_rank_{name}")).into());
            }
        };
        folders.insert(place, path);
    }
    let Some(first) = folders.values().next() else {
        return Err(BadInput::new(folder, "folders of ranks", "none").into());
    };
    let first = TorchFile::open(file_in(first)?)?;
    let args = first.root().get("args");
    let args = args.map_or_else(
        || Args::none(first.path()),
        |args| Args::from_node(first.path(), args),
    );
    // The second of two numbers is a stage's where there is a pipeline.
    let size = |name| args.optional_size(name).map(|size| size.unwrap_or(1));
    if is_ambiguous
        && size("expert_model_parallel_size")? > 1
        && size("pipeline_model_parallel_size")? == 1
    {
        let folders_of = std::mem::take(&mut folders).into_iter();
        folders = folders_of
            .map(|([rank, expert, _], path)| ([rank, 0, expert], path))
            .collect();
    }
    let counts = [0, 1, 2].map(|axis| {
        let numbers = folders.keys().map(|place| place[axis].saturating_add(1));
        numbers.max().unwrap_or(0)
    });
    let [ranks, pipeline, experts] = counts;
    let chunks = chunks(&first)?;
    // Checked before as many are looked for as a number in a name says.
    let missing = |place: [usize; 3]| -> Error {
        let [rank, stage, expert] = place;
        let mut expected = format!("mp_rank_{rank:02}");
        for (number, count) in [(stage, pipeline), (expert, experts)] {
            if count > 1 {
                expected += &format!("_{number:03}");
            }
        }
        let found = match experts {
            1 => format!("{} folders of {ranks} × {pipeline} ranks", folders.len()),
            _ => format!(
                "{} folders of {ranks} × {pipeline} × {experts} ranks",
                folders.len()
            ),
        };
        let fault = BadInput::new(folder, expected, found);
        fault.remedy("copy the folders of every rank").into()
    };
    let mut stages = Vec::new();
    for chunk in &chunks {
        for stage in 0..pipeline {
            let mut of_stage = Vec::new();
            for expert in 0..experts {
                let mut of_expert = Vec::new();
                for rank in 0..ranks {
                    let place = [rank, stage, expert];
                    let path = folders.get(&place).ok_or_else(|| missing(place))?;
                    let file = TorchFile::open(file_in(path)?)?;
                    model(&file, chunk)?;
                    of_expert.push(StateDict::new(file, |root| root.get(chunk)));
                }
                of_stage.push(of_expert);
            }
            stages.push(of_stage);
        }
    }
    let tensors = named(&stages)?;
    Ok((Classic { stages, tensors }, ranks, args))
}

/// The file of a rank.
fn file_in(folder: &Path) -> Result<PathBuf> {
    let mut files = FILES.iter().map(|name| folder.join(name));
    files.find(|path| path.exists()).ok_or_else(|| {
        let expected = format!("{} or {}", FILES[0], FILES[1]);
        BadInput::new(folder, expected, "neither").into()
    })
}

/// The keys under which a file has its parts of the model: one, or one for each interleaved stage.
fn chunks(file: &TorchFile) -> Result<Vec<String>> {
    const MOST: usize = 1024;
    let numbered = (0..).map(|number| format!("model{number}"));
    let chunks = numbered.take_while(|key| file.root().get(key).is_some());
    let chunks: Vec<String> = chunks.take(MOST + 1).collect();
    match chunks.len() {
        0 => Ok(vec!["model".into()]),
        1..=MOST => Ok(chunks),
        _ => {
            let expected = format!("at most {MOST} interleaved stages");
            Err(BadInput::new(file.path(), expected, "more").into())
        }
    }
}

/// Checks that a file holds a model of megatron-core under a key.
fn model(file: &TorchFile, key: &str) -> Result<()> {
    let fault = |found: String, remedy: &str| -> Error {
        let expected = format!("a megatron-core model under the key {key:?}");
        BadInput::new(file.path(), expected, found)
            .remedy(remedy)
            .into()
    };
    let Some(model) = file.root().get(key) else {
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

fn named(stages: &[Stage]) -> Result<BTreeMap<String, Place>> {
    let mut tensors: BTreeMap<String, Place> = BTreeMap::new();
    let mut first_layer = 0_usize;
    for (stage, of_experts) in stages.iter().enumerate() {
        let first = &of_experts[0][0];
        let mut layers = 0;
        for (expert_rank, ranks) in of_experts.iter().enumerate() {
            same_keys(ranks)?;
            let keys = || ranks[0].keys().filter(|key| !is_extra_state(key));
            let local = keys().filter_map(|key| Some(expert_of(key)?.1 + 1));
            let local = local.max().unwrap_or(0);
            for key in keys() {
                let mut name = bare(key);
                if let Some((before, expert, after)) = expert_of(&name) {
                    let expert = expert_rank.saturating_mul(local).saturating_add(expert);
                    name = format!("{before}{expert}{after}");
                } else if expert_rank > 0 {
                    // Every rank of experts has a copy of all else.
                    continue;
                }
                if let Some((layer, rest)) = layer_and_rest(&name) {
                    layers = layers.max(layer.saturating_add(1));
                    name = format!("{LAYERS}{}.{rest}", first_layer.saturating_add(layer));
                }
                let place = Place {
                    stage,
                    expert_rank,
                    key: key.to_owned(),
                };
                let name = canonical(&name);
                match tensors.get(&name) {
                    Some(other) if other.stage == stage => {
                        let found = format!("{} and {key}", other.key);
                        let expected = format!("one tensor {name}");
                        return Err(BadInput::new(first.path(), expected, found).into());
                    }
                    // The last stage of a pipeline has a copy of tied embeddings: the first one's count.
                    Some(_) => {}
                    None => {
                        tensors.insert(name, place);
                    }
                }
            }
        }
        first_layer = first_layer.saturating_add(layers);
    }
    Ok(tensors)
}

/// The number of an expert in a name, and what is around it: `local_experts.3.`, or Transformer Engine's
/// `experts.linear_fc1.weight3`.
fn expert_of(name: &str) -> Option<(&str, usize, &str)> {
    const LOCAL: &str = ".local_experts.";
    const NUMBERED: [&str; 2] = [".experts.linear_fc1.weight", ".experts.linear_fc2.weight"];
    if let Some(at) = name.find(LOCAL) {
        let start = at + LOCAL.len();
        let end = start + name[start..].find('.')?;
        return Some((&name[..start], number(&name[start..end])?, &name[end..]));
    }
    let start = NUMBERED
        .into_iter()
        .find_map(|part| Some(name.find(part)? + part.len()))?;
    Some((&name[..start], number(&name[start..])?, ""))
}

impl Classic {
    fn ranks(&self, place: &Place) -> &[StateDict] {
        &self.stages[place.stage][place.expert_rank]
    }
}

impl Source for Classic {
    fn list(&self) -> Vec<Listed> {
        let listed = self.tensors.iter().filter_map(|(name, place)| {
            let ranks = self.ranks(place);
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
        let ranks = self.ranks(place).iter();
        let parts = ranks.filter_map(|rank| rank.strided(&place.key).transpose());
        Ok(Some(Sharded::Ranks(parts.collect::<Result<_>>()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_numbered_in_either_layout() {
        let of = |name: &str| expert_of(name).map(|(_, expert, after)| (expert, after.to_owned()));
        let each = "decoder.layers.1.mlp.experts.local_experts.12.linear_fc1.weight";
        assert_eq!(of(each), Some((12, ".linear_fc1.weight".into())));
        let numbered = "decoder.layers.1.mlp.experts.linear_fc2.weight3";
        assert_eq!(of(numbered), Some((3, String::new())));
        assert_eq!(of("decoder.layers.1.mlp.linear_fc1.weight"), None);
        assert_eq!(
            of("decoder.layers.1.mlp.shared_experts.linear_fc1.weight"),
            None
        );
    }
}
