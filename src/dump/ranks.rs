//! Tensors that ranks hold, each in an array of its own.

use super::Dumped;
use std::collections::{BTreeMap, HashMap};

/// A folder of a rank (`rank0/h.0.mlp`), or the ending that the dumper gives (`h.0.mlp.tp0`).
fn marked(name: &str) -> Option<(usize, String)> {
    let number = |digits: &str| digits.parse::<usize>().ok();
    if let Some((rank, rest)) = name
        .strip_prefix("rank")
        .and_then(|rest| rest.split_once('/'))
    {
        return Some((number(rank)?, rest.to_owned()));
    }
    let (rest, rank) = name.rsplit_once(".tp")?;
    Some((number(rank)?, rest.to_owned()))
}

/// The tensors with those of one name on several ranks as one, in the place of the first; as they are where ranks
/// are missing.
pub(super) fn grouped(tensors: Vec<Dumped>) -> Vec<Dumped> {
    let marks: Vec<Option<(usize, String)>> =
        tensors.iter().map(|tensor| marked(&tensor.name)).collect();
    let mut ranks: HashMap<&str, BTreeMap<usize, usize>> = HashMap::new();
    for (place, mark) in marks.iter().enumerate() {
        if let Some((rank, name)) = mark {
            ranks.entry(name).or_default().insert(*rank, place);
        }
    }
    let is_whole = |ranks: &BTreeMap<usize, usize>| ranks.keys().copied().eq(0..ranks.len());
    let are_whole = ranks.values().all(is_whole);
    let is_taken = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
    if ranks.is_empty() || !are_whole || ranks.keys().any(|name| is_taken(name)) {
        return tensors;
    }
    let mut all: Vec<Option<Dumped>> = tensors.into_iter().map(Some).collect();
    let mut joined = Vec::new();
    for (place, mark) in marks.iter().enumerate() {
        let places: Vec<usize> = match mark {
            None => vec![place],
            Some((0, name)) => ranks[name.as_str()].values().copied().collect(),
            Some(_) => continue,
        };
        let mut parts = places.into_iter().filter_map(|place| all[place].take());
        let Some(mut first) = parts.next() else {
            continue;
        };
        first.parts.extend(parts.flat_map(|part| part.parts));
        if let Some((_, name)) = mark {
            first.name.clone_from(name);
        }
        joined.push(first);
    }
    joined
}
