//! What SGLang's dumper writes, which other frameworks use as well: a `.pt` file a tensor, named by fields
//! `key=value` between three underscores (`step=0___rank=1___dump_index=7___name=q___layer_id=3.pt`; in any
//! order), with the `value` beside `meta`, whose `dims` say how ranks divide it: `t h[tp]`.

mod dims;

use self::dims::{Dims, Place, Shard};
use super::{Dump, Dumped, ending, stem};
use crate::checkpoint::torch::{Node, TensorRecord, TorchFile};
use crate::error::{BadInput, Result};
use crate::tensor::{Tensor, Tiled};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Fields that are no part of a name: the order, the rank, and the pass.
const INDEX: &str = "dump_index";
const RANK: &str = "rank";
const PASSES: [&str; 2] = ["step", "forward_pass_id"];
/// Where a file says which rank wrote it.
const PLACES: [&str; 2] = ["sglang_parallel_info", "megatron_parallel_info"];

/// A file by what its name says.
struct Named {
    name: String,
    pass: u64,
    index: u64,
    rank: u64,
}

/// A tensor of all ranks.
struct Group {
    name: String,
    /// Its place in the order: the pass, and the index in it.
    at: (u64, u64),
    /// The files of the ranks, in order.
    ranks: Vec<PathBuf>,
}

/// `None` if the files are not such.
pub(super) fn open(folder: &Path, files: &[PathBuf]) -> Result<Option<Dump>> {
    let parsed = files.iter().filter(|file| ending(file) == Some("pt"));
    let parsed = parsed.filter_map(|file| Some((Named::parse(&stem(file))?, file)));
    let parsed: Vec<(Named, &PathBuf)> = parsed.collect();
    if parsed.is_empty() || parsed.len() < files.len() {
        return Ok(None);
    }
    let passes: BTreeSet<u64> = parsed.iter().map(|(named, _)| named.pass).collect();
    let mut ordered = parsed;
    ordered.sort_by_key(|(named, _)| (named.rank, named.pass, named.index));
    let mut groups: Vec<Group> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    // A name that a rank dumps again is told apart by its turn.
    let mut turns: BTreeMap<(u64, String), usize> = BTreeMap::new();
    for (named, file) in ordered {
        let mut name = named.name;
        if passes.len() > 1 {
            name = format!("pass.{}.{name}", named.pass);
        }
        let turn = turns.entry((named.rank, name.clone())).or_default();
        if *turn > 0 {
            name = format!("{name}.{turn}");
        }
        *turn += 1;
        let place = *places.entry(name.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Group {
                name,
                at: (named.pass, named.index),
                ranks: Vec::new(),
            });
        }
        groups[place].ranks.push(file.clone());
    }
    groups.sort_by_key(|group| group.at);
    let tensors = groups
        .into_iter()
        .map(|group| Dumped::new(group.name, move || joined(&group.ranks)));
    Ok(Some(Dump::new(folder, "SGLang's dump", tensors.collect())))
}

impl Named {
    fn parse(stem: &str) -> Option<Self> {
        let mut name = None;
        let mut rest = Vec::new();
        let (mut pass, mut index, mut rank) = (0, 0, 0);
        for field in stem.split("___") {
            let (key, value) = field.split_once('=')?;
            match key {
                "name" => name = Some(value.to_owned()),
                INDEX => index = value.parse().ok()?,
                RANK => rank = value.parse().ok()?,
                key if PASSES.contains(&key) => pass = value.parse().unwrap_or(0),
                _ => rest.push(format!("{key}.{value}")),
            }
        }
        let mut name = name?;
        rest.sort();
        for part in rest {
            name += &format!(".{part}");
        }
        Some(Self {
            name,
            pass,
            index,
            rank,
        })
    }
}

/// A tensor of all ranks: joined where its dimensions say so, else the same on all.
fn joined(ranks: &[PathBuf]) -> Result<Tensor> {
    let mut shards = Vec::new();
    let mut text = None;
    for file in ranks {
        let (shard, dims) = shard(file)?;
        shards.push(shard);
        text = text.or(dims);
    }
    if let [only] = shards.as_slice() {
        return Ok(only.value.clone());
    }
    let text = text.unwrap_or_default();
    let fault = |expected: &str, found: String| BadInput::new(&ranks[0], expected, found);
    let dims = Dims::parse(&text).map_err(|word| {
        let expected = "dims that say how ranks divide it (t h[tp], s[cp:zigzag])";
        fault(expected, format!("{word} in {text:?}")).at("meta.dims")
    })?;
    let value = dims.joined(shards)?;
    value.map_err(|why| {
        let expected = "parts that are one tensor as the dims say, and else the same on all ranks";
        let remedy = "leave the tensor out by null for its name in the file of --map, or dump it on one rank";
        let fault = fault(expected, format!("{why} (dims {text:?})"));
        fault.remedy(remedy).into()
    })
}

/// What a rank holds, and the dimensions that its file names.
fn shard(path: &Path) -> Result<(Shard, Option<String>)> {
    let file = TorchFile::open(path)?;
    let root = file.root();
    let meta = root.get("meta");
    let dims = meta.and_then(|meta| meta.get("dims"));
    let dims = dims.and_then(|dims| dims.text()).map(str::to_owned);
    let ranks = meta.and_then(|meta| PLACES.iter().find_map(|key| meta.get(key)));
    let place = ranks.map(place).unwrap_or_default();
    let node = root.get("value").unwrap_or(root);
    let Some(record) = TensorRecord::from_node(node) else {
        let found = node.shown().to_string();
        return Err(BadInput::new(path, "a tensor as value", found).into());
    };
    let value = Tiled::one(file.strided("value", &record)?).to_tensor()?;
    Ok((Shard { value, place }, dims))
}

/// Of `tp_rank`, `tp_size` and their like, those of several ranks.
fn place(ranks: Node<'_>) -> Place {
    let number = |key: String| usize::try_from(ranks.get(&key)?.int()?).ok();
    let keys = ranks.entries().into_iter().flatten();
    let kinds = keys.filter_map(|(key, _)| key.text()?.strip_suffix("_rank"));
    let places = kinds.filter_map(|kind| {
        let size = number(format!("{kind}_size")).filter(|size| *size > 1)?;
        let rank = number(format!("{kind}_rank")).filter(|rank| *rank < size)?;
        Some((kind.to_owned(), (rank, size)))
    });
    places.collect()
}
