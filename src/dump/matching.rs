//! Which tensors of two dumps are compared: those of one name, and those that a map says.

use super::order::numbers;
use super::{Dump, Dumped, alike};
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

/// A shape without its rows' length, and the numbers in a name: what tensors that may be one have in common.
type Kind = (Vec<usize>, Vec<u64>);

/// What a proposal sees of a tensor.
struct Looked {
    name: String,
    /// The first rows, one after the other, and how long each is.
    rows: Vec<f64>,
    width: usize,
}

/// Names of the reference's tensors, and for each the candidate's, or that it is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NameMap {
    names: BTreeMap<String, Option<String>>,
}

/// Which tensors belong together, in the reference's order.
pub struct Pairs<'a> {
    /// The reference's and the candidate's.
    pub pairs: Vec<(&'a Dumped, &'a Dumped)>,
    /// The reference's alone.
    pub only_reference: Vec<&'a Dumped>,
    /// The candidate's alone.
    pub only_candidate: Vec<&'a Dumped>,
    /// Those of the reference that the map leaves out.
    pub left_out: Vec<&'a Dumped>,
}

impl NameMap {
    /// Reads a JSON object of names; a tensor whose partner is `null` is left out.
    ///
    /// # Errors
    /// If the file is missing, or no object of texts and nulls.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        if file.len() > MAX_BYTES {
            let expected = format!("a map of at most {MAX_BYTES} bytes");
            return Err(BadInput::new(path, expected, file.len().to_string()).into());
        }
        let expected = "a JSON object of the reference's names and the candidate's";
        let names = serde_json::from_slice(&file)
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

    /// What tensors that no name brings together may be of each other: of one shape, whichever of batch and sequence
    /// comes first, and the same numbers of layers
    /// in their names, those whose values are nearest, if they are near at all.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn proposed(pairs: &Pairs<'_>) -> Result<Self> {
        let by_kind = |all: &[&Dumped]| -> Result<BTreeMap<Kind, Vec<Looked>>> {
            let mut kinds: BTreeMap<Kind, Vec<Looked>> = BTreeMap::new();
            for tensor in all {
                // Parts of ranks have no shape to go by.
                let [value] = &tensor.apart()?[..] else {
                    continue;
                };
                let value = alike::shorter_first(value);
                let leading = value
                    .shape()
                    .split_last()
                    .map_or(&[][..], |(_, leading)| leading);
                let kind = (leading.to_vec(), numbers(&tensor.name));
                kinds
                    .entry(kind)
                    .or_default()
                    .push(Looked::at(&tensor.name, &value)?);
            }
            Ok(kinds)
        };
        let reference = by_kind(&pairs.only_reference)?;
        let mut candidate = by_kind(&pairs.only_candidate)?;
        let mut names = BTreeMap::new();
        for (kind, ours) in reference {
            let theirs = candidate.remove(&kind).unwrap_or_default();
            let mut all: Vec<(f64, &str, &str)> = Vec::new();
            for our in &ours {
                let near = theirs.iter().filter_map(|their| {
                    Some((our.apart(their)?, our.name.as_str(), their.name.as_str()))
                });
                all.extend(near.filter(|(apart, ..)| *apart <= APART));
            }
            all.sort_by(|a, b| {
                a.0.total_cmp(&b.0)
                    .then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
            });
            let mut taken: BTreeSet<&str> = BTreeSet::new();
            for (_, name, other) in all {
                if !names.contains_key(name) && taken.insert(other) {
                    names.insert(name.to_owned(), Some(other.to_owned()));
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
        let mut left_out: BTreeSet<usize> = BTreeSet::new();
        for (name, other) in &map.names {
            let place = |dump: &Dump, name: &str| {
                let mut tensors = dump.tensors.iter();
                let place = tensors.position(|tensor| tensor.name == *name);
                place.ok_or_else(|| -> Error {
                    let expected = format!("the tensor {name}, which the map names");
                    BadInput::new(&dump.path, expected, "none").into()
                })
            };
            let ours = place(reference, name)?;
            let Some(other) = other else {
                left_out.insert(ours);
                // Nor is its namesake compared with anything.
                taken.extend(place(candidate, name).ok());
                continue;
            };
            let theirs = place(candidate, other)?;
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
            let ours = by_form(reference, &|place| {
                !partner.contains_key(&place) && !left_out.contains(&place)
            });
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
                .filter(|(place, _)| !partner.contains_key(place) && !left_out.contains(place))
                .map(|(_, tensor)| tensor)
                .collect(),
            left_out: ours()
                .filter(|(place, _)| left_out.contains(place))
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

impl Looked {
    fn at(name: &str, value: &Tensor) -> Result<Self> {
        let width = value.row_len().max(1);
        let count = LOOKED_AT.max(width) / width * width;
        let whole = value.clone().reshaped(&[value.len()])?;
        let few = whole.first(0, count.min(value.len()))?.widened()?;
        Ok(Self {
            name: name.to_owned(),
            rows: few.as_slice::<f64>()?.to_vec(),
            width,
        })
    }

    /// How far values are apart, relative to these, over what rows have in common; `None` if rows of their lengths
    /// are not compared.
    fn apart(&self, other: &Self) -> Option<f64> {
        let width = alike::shared([self.width, other.width])?;
        let rows = self
            .rows
            .chunks(self.width)
            .zip(other.rows.chunks(other.width));
        let (mut difference, mut size) = (0.0, 0.0);
        for (ours, theirs) in rows {
            for (a, b) in ours.iter().zip(theirs).take(width) {
                difference += (a - b) * (a - b);
                size += a * a;
            }
        }
        Some(if difference == 0.0 {
            0.0
        } else {
            (difference / size).sqrt()
        })
    }
}
