//! Which tensors of two dumps are compared: those of one name, and those that a map says.

use super::order::numbers;
use super::{Dump, Dumped};
use crate::checkpoint::bare;
use crate::error::{BadInput, Error, Result};
use crate::tensor::{MappedFile, Tensor};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// Largest map believed.
const MAX_BYTES: usize = 64 << 20;
/// Elements of a tensor that a proposal looks at.
const LOOKED_AT: usize = 4096;
/// Farthest apart, relative to their size, that values are believed to be one tensor's.
const APART: f64 = 0.5;

/// A shape, and the numbers in a name: what tensors that may be one have in common.
type Kind = (Vec<usize>, Vec<u64>);
/// A name, and the first values.
type Looked = (String, Vec<f64>);

/// Names of the reference's tensors, and the candidate's for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NameMap {
    names: BTreeMap<String, String>,
}

/// Which tensors belong together, in the reference's order.
pub struct Pairs<'a> {
    /// The reference's and the candidate's.
    pub pairs: Vec<(&'a Dumped, &'a Dumped)>,
    /// The reference's alone.
    pub only_reference: Vec<&'a Dumped>,
    /// The candidate's alone.
    pub only_candidate: Vec<&'a Dumped>,
}

impl NameMap {
    /// Reads a JSON object of names.
    ///
    /// # Errors
    /// If the file is missing, or no object of texts.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        if file.len() > MAX_BYTES {
            let expected = format!("a map of at most {MAX_BYTES} bytes");
            return Err(BadInput::new(path, expected, file.len().to_string()).into());
        }
        let expected = "a JSON object of the reference's names and the candidate's";
        let names: BTreeMap<String, String> = serde_json::from_slice(&file)
            .map_err(|e| BadInput::new(path, expected, e.to_string()))?;
        Ok(Self { names })
    }

    /// As it is written.
    pub fn to_json(&self) -> String {
        let entries = self.names.iter();
        let all: Map<String, Value> = entries
            .map(|(a, b)| (a.clone(), b.clone().into()))
            .collect();
        let mut text = serde_json::to_string_pretty(&all).unwrap_or_default();
        text.push('\n');
        text
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What tensors that no name brings together may be of each other: of one shape and the same numbers of layers
    /// in their names, those whose values are nearest, if they are near at all.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn proposed(pairs: &Pairs<'_>) -> Result<Self> {
        let by_kind = |all: &[&Dumped]| -> Result<BTreeMap<Kind, Vec<Looked>>> {
            let mut kinds: BTreeMap<Kind, Vec<Looked>> = BTreeMap::new();
            for tensor in all {
                let value = tensor.load()?;
                let kind = (value.shape().to_vec(), numbers(&tensor.name));
                let found = (tensor.name.clone(), first_of(&value)?);
                kinds.entry(kind).or_default().push(found);
            }
            Ok(kinds)
        };
        let reference = by_kind(&pairs.only_reference)?;
        let mut candidate = by_kind(&pairs.only_candidate)?;
        let mut names = BTreeMap::new();
        for (kind, ours) in reference {
            let theirs = candidate.remove(&kind).unwrap_or_default();
            let mut all: Vec<(f64, &str, &str)> = Vec::new();
            for (name, values) in &ours {
                let near = theirs
                    .iter()
                    .map(|(other, others)| (apart(values, others), &**name, &**other));
                all.extend(near.filter(|(apart, ..)| *apart <= APART));
            }
            all.sort_by(|a, b| {
                a.0.total_cmp(&b.0)
                    .then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
            });
            let mut taken: BTreeSet<&str> = BTreeSet::new();
            for (_, name, other) in all {
                if !names.contains_key(name) && taken.insert(other) {
                    names.insert(name.to_owned(), other.to_owned());
                }
            }
        }
        Ok(Self { names })
    }
}

impl<'a> Pairs<'a> {
    /// By `map`, then by name, then by what a name is without the wrappers and endings that dumpers add.
    ///
    /// # Errors
    /// If the map names a tensor that is not there, or one twice.
    pub fn new(reference: &'a Dump, candidate: &'a Dump, map: &NameMap) -> Result<Self> {
        let mut partner: HashMap<usize, usize> = HashMap::new();
        let mut taken: BTreeSet<usize> = BTreeSet::new();
        for (name, other) in &map.names {
            let place = |dump: &Dump, name: &str| {
                let mut tensors = dump.tensors.iter();
                let place = tensors.position(|tensor| tensor.name == *name);
                place.ok_or_else(|| -> Error {
                    let expected = format!("the tensor {name}, which the map names");
                    BadInput::new(&dump.path, expected, "none").into()
                })
            };
            let (ours, theirs) = (place(reference, name)?, place(candidate, other)?);
            if !taken.insert(theirs) {
                let fault =
                    BadInput::new(&candidate.path, "every name once in the map", "it twice");
                return Err(fault.at(other).into());
            }
            partner.insert(ours, theirs);
        }
        let forms: [fn(&Dumped) -> Vec<String>; 3] = [
            |tensor| vec![tensor.name.clone()],
            |tensor| {
                [Some(tensor.name.clone()), tensor.alias.clone()]
                    .into_iter()
                    .flatten()
                    .collect()
            },
            |tensor| {
                let names = [Some(&tensor.name), tensor.alias.as_ref()];
                names
                    .into_iter()
                    .flatten()
                    .map(|name| plain(name))
                    .collect()
            },
        ];
        for form in forms {
            let by_form = |dump: &'a Dump, is_free: &dyn Fn(usize) -> bool| {
                // What several go by says nothing.
                let mut places: HashMap<String, Option<usize>> = HashMap::new();
                for (place, tensor) in dump
                    .tensors
                    .iter()
                    .enumerate()
                    .filter(|(place, _)| is_free(*place))
                {
                    let mut forms = form(tensor);
                    forms.sort();
                    forms.dedup();
                    for name in forms {
                        let known = places.entry(name).or_insert(Some(place));
                        if *known != Some(place) {
                            *known = None;
                        }
                    }
                }
                places
            };
            let ours = by_form(reference, &|place| !partner.contains_key(&place));
            let theirs = by_form(candidate, &|place| !taken.contains(&place));
            let mut found: Vec<(usize, usize)> = ours
                .iter()
                .filter_map(|(name, place)| Some(((*place)?, (*theirs.get(name)?)?)))
                .collect();
            found.sort_unstable();
            for (ours, theirs) in found {
                if !partner.contains_key(&ours) && taken.insert(theirs) {
                    partner.insert(ours, theirs);
                }
            }
        }
        let of = |place: &usize| &candidate.tensors[*place];
        let ours = || reference.tensors.iter().enumerate();
        let theirs = candidate.tensors.iter().enumerate();
        Ok(Self {
            pairs: ours()
                .filter_map(|(place, tensor)| Some((tensor, of(partner.get(&place)?))))
                .collect(),
            only_reference: ours()
                .filter(|(place, _)| !partner.contains_key(place))
                .map(|(_, tensor)| tensor)
                .collect(),
            only_candidate: theirs
                .filter(|(place, _)| !taken.contains(place))
                .map(|(_, tensor)| tensor)
                .collect(),
        })
    }
}

/// A name without what dumpers and models under a head add.
fn plain(name: &str) -> String {
    let name = bare(name);
    let name = name.strip_prefix("transformer.").unwrap_or(&name);
    name.strip_suffix(".output").unwrap_or(name).to_owned()
}

/// The first elements of a value, in fp64.
fn first_of(value: &Tensor) -> Result<Vec<f64>> {
    let whole = value.clone().reshaped(&[value.len()])?;
    let few = whole.first(0, LOOKED_AT.min(value.len()))?;
    let wide = few.widened()?;
    Ok(wide.as_slice::<f64>()?.to_vec())
}

/// How far values are apart, relative to the reference's.
fn apart(reference: &[f64], candidate: &[f64]) -> f64 {
    let pairs = reference.iter().zip(candidate);
    let difference: f64 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
    let size: f64 = reference.iter().map(|a| a * a).sum();
    if difference == 0.0 {
        0.0
    } else {
        (difference / size).sqrt()
    }
}
