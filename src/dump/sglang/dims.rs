//! How ranks divide a tensor, as SGLang's dumper writes it beside the value: `b s[cp:zigzag,sp] h[tp] d`, a word a
//! dimension, with the kinds of ranks that divide it from the outermost in; what stands after `#` is for readers.

use crate::error::Result;
use crate::tensor::{Float, Tensor, with_float};
use std::collections::{BTreeMap, BTreeSet};

/// A rank's place among those of each kind, with how many there are: `tp` → (1, 4). Kinds of one rank are left out.
pub(super) type Place = BTreeMap<String, (usize, usize)>;

/// What one rank holds.
pub(super) struct Shard {
    pub(super) value: Tensor,
    pub(super) place: Place,
}

/// The dimensions of a tensor.
pub(super) struct Dims {
    all: Vec<Dim>,
}

struct Dim {
    name: String,
    divisions: Vec<Division>,
}

/// One kind of ranks that divide a dimension.
struct Division {
    kind: String,
    /// Each rank has two stretches, one counted from either end, as context parallelism deals out causal attention.
    is_zigzag: bool,
    /// Each rank has a part of the sum.
    is_partial: bool,
}

impl Dims {
    /// Reads the text; `Err` with the word that is none.
    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        let text = text.split('#').next().unwrap_or_default();
        let all = words(text).into_iter().map(Dim::parse);
        Ok(Self {
            all: all.collect::<std::result::Result<_, _>>()?,
        })
    }

    /// The kinds of ranks that divide it.
    fn kinds(&self) -> BTreeSet<&str> {
        let divisions = self.all.iter().flat_map(|dim| &dim.divisions);
        divisions.map(|division| division.kind.as_str()).collect()
    }

    /// The tensor that the ranks hold together, or why they hold none. Ranks at the same place of all that divide it
    /// have to hold the same.
    ///
    /// # Errors
    /// If a value cannot be moved.
    pub(super) fn joined(
        &self,
        mut shards: Vec<Shard>,
    ) -> Result<std::result::Result<Tensor, String>> {
        self.name_places(&mut shards);
        let kinds = self.kinds();
        let divides = |kind: &&&str| shards.iter().any(|shard| shard.place.contains_key(**kind));
        let mut used: Vec<&str> = kinds.iter().filter(divides).copied().collect();
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        let mut parts: BTreeMap<Vec<usize>, Tensor> = BTreeMap::new();
        for shard in &shards {
            let mut at = Vec::new();
            for kind in &used {
                let Some((rank, size)) = shard.place.get(*kind) else {
                    return Ok(Err(format!("a rank that has no place of {kind}")));
                };
                if *sizes.entry(*kind).or_insert(*size) != *size {
                    return Ok(Err(format!("two sizes of {kind}")));
                }
                at.push(*rank);
            }
            match parts.get(&at) {
                Some(other) if !other.bits_equal(&shard.value) => {
                    return Ok(Err(differ(&used, &shards)));
                }
                Some(_) => {}
                None => {
                    parts.insert(at, shard.value.clone());
                }
            }
        }
        let whole: usize = sizes.values().product();
        if parts.len() != whole {
            return Ok(Err(format!("{} of {whole} parts", parts.len())));
        }
        for (axis, dim) in self.all.iter().enumerate() {
            for division in dim.divisions.iter().rev() {
                let Some(place) = used.iter().position(|kind| *kind == division.kind) else {
                    continue;
                };
                let mut groups: BTreeMap<Vec<usize>, Vec<Tensor>> = BTreeMap::new();
                // By rank, since the places are in order.
                let mut ordered: Vec<_> = parts.into_iter().collect();
                ordered.sort_by_key(|(at, _)| at[place]);
                for (mut at, value) in ordered {
                    at.remove(place);
                    groups.entry(at).or_default().push(value);
                }
                used.remove(place);
                parts = BTreeMap::new();
                for (at, values) in groups {
                    match division.joined(&dim.name, axis, &values)? {
                        Ok(value) => parts.insert(at, value),
                        Err(why) => return Ok(Err(why)),
                    };
                }
            }
        }
        let value = parts.into_values().next();
        Ok(value.ok_or_else(|| "none".into()))
    }

    /// Gives ranks the places that their files leave out: those of a sequence that tensor-parallel ranks divide, and
    /// those of the only kind there is, in the order of files.
    fn name_places(&self, shards: &mut [Shard]) {
        let kinds = self.kinds();
        if kinds.contains("sp") && !kinds.contains("tp") {
            for shard in &mut *shards {
                if let Some(place) = shard.place.get("tp").copied() {
                    shard.place.entry("sp".into()).or_insert(place);
                }
            }
        }
        let size = shards.len();
        if let [only] = kinds.iter().copied().collect::<Vec<_>>()[..]
            && size > 1
            && shards.iter().all(|shard| shard.place.is_empty())
        {
            for (rank, shard) in shards.iter_mut().enumerate() {
                shard.place.insert(only.to_owned(), (rank, size));
            }
        }
    }
}

impl Dim {
    /// `h`, `h[tp]`, `h(tp)`, `(heads*d)[tp]`.
    fn parse(word: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{word:?}");
        let marks = |open, close| word.strip_suffix(close)?.rsplit_once(open);
        // Round brackets at the start are around dimensions that are one.
        let round = || marks('(', ')').filter(|(name, _)| !name.is_empty());
        let (name, divisions) = match marks('[', ']').or_else(round) {
            None => (word, Vec::new()),
            Some((name, list)) => {
                let each = list.split(',').map(|one| Division::parse(one.trim()));
                (name, each.collect::<Option<_>>().ok_or_else(wrong)?)
            }
        };
        let is_name = !name.is_empty() && !name.contains(['[', ']']);
        let name = name.to_owned();
        is_name
            .then_some(Self { name, divisions })
            .ok_or_else(wrong)
    }
}

impl Division {
    /// `tp`, `cp:zigzag`, `tp:partial`.
    fn parse(text: &str) -> Option<Self> {
        let (kind, how) = text.split_once(':').unwrap_or((text, ""));
        let mut division = Self {
            kind: kind.trim().to_owned(),
            is_zigzag: false,
            is_partial: false,
        };
        for word in how
            .split('+')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            match word {
                "zigzag" => division.is_zigzag = true,
                "partial" => division.is_partial = true,
                "natural" => {}
                _ => return None,
            }
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (!division.kind.is_empty() && division.kind.chars().all(is_name)).then_some(division)
    }

    /// What ranks of this kind hold together.
    fn joined(
        &self,
        dim: &str,
        axis: usize,
        values: &[Tensor],
    ) -> Result<std::result::Result<Tensor, String>> {
        let Some(first) = values.first().filter(|value| axis < value.shape().len()) else {
            return Ok(Err(format!("no axis {axis}, which the dims name {dim}")));
        };
        if self.is_partial {
            return if values.iter().all(|value| value.shape() == first.shape()) {
                summed(values).map(Ok)
            } else {
                Ok(Err("parts of a sum of several shapes".into()))
            };
        }
        if !self.is_zigzag || values.len() == 1 {
            return Ok(Tensor::concat(values, axis).map_err(|e| e.to_string()));
        }
        if dim == "t" {
            let why =
                "packed sequences that context-parallel ranks divide: dump them with one such rank";
            return Ok(Err(why.into()));
        }
        let extent = first.shape()[axis];
        if extent % 2 != 0 {
            return Ok(Err(format!(
                "{extent} entries of {dim}, which are to be two stretches"
            )));
        }
        let mut stretches = Vec::new();
        let mut others = Vec::new();
        for value in values {
            stretches.push(value.slice(axis, 0..extent / 2)?);
            others.push(value.slice(axis, extent / 2..extent)?);
        }
        stretches.extend(others.into_iter().rev());
        Ok(Tensor::concat(&stretches, axis).map_err(|e| e.to_string()))
    }
}

/// Words between spaces that are in no brackets.
fn words(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let between = text.split(move |c: char| {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && c.is_whitespace()
    });
    between.filter(|word| !word.is_empty()).collect()
}

/// The ranks' parts of a sum, added in fp64 in the order of ranks and rounded once.
fn summed(values: &[Tensor]) -> Result<Tensor> {
    let first = &values[0];
    let mut total = vec![0.0; first.len()];
    for value in values {
        let wide = value.widened()?;
        let each = total.iter_mut().zip(wide.as_slice::<f64>()?);
        each.for_each(|(total, part)| *total += part);
    }
    with_float!(first.dtype(), T => {
        let rounded = total.into_iter().map(T::nearest).collect();
        Tensor::from_vec(first.shape(), rounded)
    }, else Ok(first.clone()))
}

/// What to say of ranks that hold other values where the dims say that they hold the same.
fn differ(used: &[&str], shards: &[Shard]) -> String {
    let all = shards.iter().flat_map(|shard| shard.place.keys());
    let others: BTreeSet<&str> = all.map(String::as_str).collect();
    let others: Vec<&str> = others
        .into_iter()
        .filter(|kind| !used.contains(kind))
        .collect();
    if others.is_empty() {
        format!("others on {} ranks", shards.len())
    } else {
        format!("others on ranks of {}", others.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensor(shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        Tensor::from_vec(shape, (0..count).map(|x| x as f32).collect()).unwrap()
    }

    fn shard(value: Tensor, place: &[(&str, usize, usize)]) -> Shard {
        let place = place
            .iter()
            .map(|(kind, rank, size)| ((*kind).to_owned(), (*rank, *size)));
        Shard {
            value,
            place: place.collect(),
        }
    }

    fn joined(dims: &str, shards: Vec<Shard>) -> std::result::Result<Tensor, String> {
        Dims::parse(dims)?.joined(shards).unwrap()
    }

    /// The stretch of a sequence that a context-parallel rank has.
    fn zigzag(whole: &Tensor, axis: usize, rank: usize, size: usize) -> Tensor {
        let stretch = whole.shape()[axis] / (2 * size);
        let at = |n: usize| whole.slice(axis, n * stretch..(n + 1) * stretch).unwrap();
        Tensor::concat(&[at(rank), at(2 * size - 1 - rank)], axis).unwrap()
    }

    proptest! {
        #[test]
        fn what_was_divided_is_joined(tp in 1_usize..4, cp in 1_usize..4, ep in 1_usize..3) {
            let whole = tensor(&[2, 4 * cp, 3 * tp]);
            let mut shards = Vec::new();
            for (t, c, e) in (0..tp).flat_map(|t| (0..cp).flat_map(move |c| (0..ep).map(move |e| (t, c, e)))) {
                let part = zigzag(&whole, 1, c, cp).slice(2, 3 * t..3 * (t + 1)).unwrap();
                let place = [("tp", t, tp), ("cp", c, cp), ("ep", e, ep)];
                let place: Vec<_> = place.into_iter().filter(|(.., size)| *size > 1).collect();
                shards.insert(shards.len() / 2, shard(part, &place));
            }
            let found = joined("b s[cp:zigzag] h[tp] # ep:replicated", shards).unwrap();
            prop_assert!(found.bits_equal(&whole));
        }
    }

    #[test]
    fn a_dimension_is_divided_twice_and_sums_are_summed() {
        let whole = tensor(&[8, 1, 2]);
        let part = |cp: usize, tp: usize| {
            let value = zigzag(&whole, 0, cp, 2)
                .slice(0, 2 * tp..2 * tp + 2)
                .unwrap();
            shard(value, &[("cp", cp, 2), ("tp", tp, 2)])
        };
        let shards = vec![part(1, 1), part(0, 0), part(1, 0), part(0, 1)];
        // Sequence-parallel ranks are the tensor-parallel ones.
        let found = joined("s[cp:zigzag,sp] 1 h", shards).unwrap();
        assert!(found.bits_equal(&whole));
        let half = || tensor(&[2, 2]);
        let shards = vec![
            shard(half(), &[("tp", 0, 2)]),
            shard(half(), &[("tp", 1, 2)]),
        ];
        let found = joined("t h[tp:partial]", shards).unwrap();
        assert_eq!(found.as_slice::<f32>().unwrap(), [0.0, 2.0, 4.0, 6.0]);
    }

    #[test]
    fn what_cannot_be_joined_is_said() {
        let two = |of: [Tensor; 2], kind| {
            let [a, b] = of;
            vec![shard(a, &[(kind, 0, 2)]), shard(b, &[(kind, 1, 2)])]
        };
        let others = || {
            [
                tensor(&[2, 2]),
                Tensor::from_vec(&[2, 2], vec![1_f32; 4]).unwrap(),
            ]
        };
        let refused = |dims: &str, shards| joined(dims, shards).unwrap_err();
        insta::assert_snapshot!(refused("t h", two(others(), "dp")), @"others on ranks of dp");
        insta::assert_snapshot!(refused("t[cp:zigzag] h", two(others(), "cp")), @"packed sequences that context-parallel ranks divide: dump them with one such rank");
        insta::assert_snapshot!(refused("t h[tp:twice]", Vec::new()), @r#""h[tp:twice]""#);
        insta::assert_snapshot!(refused("t h[tp]", two(others(), "tp")[..1].iter().map(|s| shard(s.value.clone(), &[("tp", 0, 2)])).collect()), @"1 of 2 parts");
        insta::assert_snapshot!(refused("b s h d[tp]", two(others(), "tp")), @"no axis 3, which the dims name d");
    }
}
