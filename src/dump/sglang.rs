//! What SGLang's dumper writes, which other frameworks use as well: a `.pt` file a tensor, named by fields
//! `key=value` between three underscores (`step=0___rank=1___dump_index=7___name=q___layer_id=3.pt`; in any
//! order), with the `value` beside `meta`, whose `dims` say how ranks divide it: `t h[tp]`.

use super::order::natural;
use super::{Dump, Dumped, ending, stem};
use crate::checkpoint::torch::{TensorRecord, TorchFile};
use crate::error::{BadInput, Error, Result};
use crate::tensor::{Tensor, Tiled};
use std::collections::BTreeMap;
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

/// `None` if the files are not such.
pub(super) fn open(folder: &Path, files: &[PathBuf]) -> Result<Option<Dump>> {
    let parsed = files.iter().filter(|file| ending(file) == Some("pt"));
    let parsed = parsed.filter_map(|file| Some((Named::parse(&stem(file))?, file)));
    let parsed: Vec<(Named, &PathBuf)> = parsed.collect();
    if parsed.is_empty() || parsed.len() < files.len() {
        return Ok(None);
    }
    let passes: std::collections::BTreeSet<u64> =
        parsed.iter().map(|(named, _)| named.pass).collect();
    // In the order of the first rank; a name that is dumped again in a pass is told apart by its turn.
    let mut tensors: BTreeMap<(u64, String, usize), (u64, BTreeMap<u64, PathBuf>)> =
        BTreeMap::new();
    let mut turns: BTreeMap<(u64, String, u64), usize> = BTreeMap::new();
    let mut ordered = parsed;
    ordered
        .sort_by_key(|(named, file)| (named.rank, named.pass, named.index, natural(&stem(file))));
    for (named, file) in ordered {
        let turn = turns
            .entry((named.pass, named.name.clone(), named.rank))
            .or_default();
        let key = (named.pass, named.name, *turn);
        *turn += 1;
        let entry = tensors
            .entry(key)
            .or_insert_with(|| (named.index, BTreeMap::new()));
        entry.1.insert(named.rank, file.clone());
    }
    let mut listed: Vec<_> = tensors.into_iter().collect();
    listed.sort_by_key(|((pass, _, _), (index, _))| (*pass, *index));
    let tensors = listed.into_iter().map(|((pass, name, turn), (_, ranks))| {
        let mut full = name.clone();
        if turn > 0 {
            full += &format!(".{turn}");
        }
        if passes.len() > 1 {
            full = format!("pass.{pass}.{full}");
        }
        let ranks: Vec<PathBuf> = ranks.into_values().collect();
        Dumped::new(full, move || joined(&ranks))
    });
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
    match axes.iter().position(|axis| divided(&axis)) {
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
