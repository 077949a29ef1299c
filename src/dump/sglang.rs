//! What SGLang's dumper writes, which other frameworks use as well: a `.pt` file a tensor, named by fields
//! `key=value` between three underscores (`step=0___rank=1___dump_index=7___name=q___layer_id=3.pt`; in any
//! order), with the `value` beside `meta`, whose `dims` say how ranks divide it: `t h[tp]`.

use super::{Dump, Dumped, ending, stem};
use crate::checkpoint::torch::{TensorRecord, TorchFile};
use crate::error::{BadInput, Error, Result};
use crate::tensor::{Tensor, Tiled};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Fields that are no part of a name: the order, the rank, and the pass.
const INDEX: &str = "dump_index";
const RANK: &str = "rank";
const PASSES: [&str; 2] = ["step", "forward_pass_id"];
/// How a dimension says that tensor-parallel ranks divide it.
const DIVIDED: [&str; 2] = ["[tp]", "(tp)"];

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
    let values: Vec<(Tensor, Option<String>)> = ranks
        .iter()
        .map(|file| value(file))
        .collect::<Result<_>>()?;
    let [(first, dims), others @ ..] = values.as_slice() else {
        return Err(Error::Mismatch {
            at: "dump".into(),
            expected: "a rank".into(),
            found: "none".into(),
        });
    };
    if others.is_empty() {
        return Ok(first.clone());
    }
    let fault = |expected: &str, found: String| BadInput::new(&ranks[0], expected, found);
    let dims = dims.clone().unwrap_or_default();
    let axes = dims
        .split('#')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let axes: Vec<&str> = axes.collect();
    let divided = |axis: &&str| DIVIDED.iter().any(|mark| axis.contains(mark));
    if axes
        .iter()
        .any(|axis| axis.contains(['[', '(']) && !divided(axis))
    {
        let expected = "dims that name no other ranks than tensor-parallel ones ([tp])";
        return Err(fault(expected, dims).at("meta.dims").into());
    }
    let all: Vec<Tensor> = values.iter().map(|(value, _)| value.clone()).collect();
    match axes.iter().position(divided) {
        Some(axis) if axis < first.shape().len() => {
            Tensor::concat(&all, axis).map_err(|e| e.in_file(ranks[0].clone()))
        }
        Some(axis) => {
            let found = format!("shape {:?}", first.shape());
            let expected = format!("an axis {axis}, as the dims {dims:?} say");
            Err(fault(&expected, found).into())
        }
        None if others.iter().all(|(other, _)| other.bits_equal(first)) => Ok(first.clone()),
        None => {
            let expected = "the same on all ranks, or dims that say how they divide it (h[tp])";
            let found = format!("others on {} ranks, dims {dims:?}", ranks.len());
            Err(fault(expected, found).into())
        }
    }
}

/// The value in a file, and its dimensions.
fn value(path: &Path) -> Result<(Tensor, Option<String>)> {
    let file = TorchFile::open(path)?;
    let root = file.root();
    let dims = root.get("meta").and_then(|meta| meta.get("dims"));
    let dims = dims.and_then(|dims| dims.text()).map(str::to_owned);
    let node = root.get("value").unwrap_or(root);
    let Some(record) = TensorRecord::from_node(node) else {
        let found = node.shown().to_string();
        return Err(BadInput::new(path, "a tensor as value", found).into());
    };
    let value = Tiled::one(file.strided("value", &record)?).to_tensor()?;
    Ok((value, dims))
}
