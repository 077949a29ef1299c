//! Sums that are taken in parts, and the order in which the parts are added.

use crate::tensor::Float;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Into how many equal ranges a sum is split, each rounded for itself, and how their sums are added: what a
/// row-parallel layer does over tensor-parallel ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Partials {
    /// How many; 1: one sum.
    pub count: usize,
    /// How they are added.
    pub order: AllReduce,
}

/// How an all-reduce adds the parts of its ranks `x₀, x₁, …`. It is the library's affair, and the same
/// ranks' results differ with it from three ranks on. Every sum is rounded but where it says otherwise.
///
/// Rings cut the flattened tensor into chunks, one a rank, and add each chunk in an order of its own.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AllReduce {
    /// `(x₀ + x₁) + x₂ + …`: one rank after the other.
    #[default]
    RankOrder,
    /// gloo's ring: chunk `i` is `(x[i−1] + x[i−2]) + … + x[i]`, rank `i` last. Chunks are whole segments
    /// (gloo/allreduce.cc): two a rank, more where one were longer than 1 MiB.
    GlooRing,
    /// A ring the other way round, as NCCL's: chunk `i` is `(x[i+1] + x[i+2]) + … + x[i]`; equal chunks.
    NcclRing,
    /// `(x₀ + x₁) + (x₂ + x₃)`, pairs and pairs of pairs: recursive doubling.
    Tree,
    /// All in fp32 and rounded once: inside a switch.
    Wide,
    /// None of these, as far as values tell. Steps are run as [`Self::RankOrder`]; what can be said of a
    /// value is whether any order gives it.
    Unknown,
}

/// The most ranks of which all orders are looked through: eight have 135,135, by 3,280 ways to take a set
/// of them in two.
const MOST_RANKS: usize = 8;

/// The longest segment of gloo's ring, in bytes.
const GLOO_SEGMENT: usize = 1 << 20;

impl Partials {
    /// One sum.
    pub const ONE: Self = Self::in_order(1);

    /// So many, added one after the other.
    pub const fn in_order(count: usize) -> Self {
        Self {
            count,
            order: AllReduce::RankOrder,
        }
    }

    /// Whether the order changes results: the sum of two rounded values does not depend on it, but for
    /// what is added without a rounding between.
    pub fn has_order(self) -> bool {
        self.count > 2
    }

    /// The sum of the parts of one element, of which the last addition is still to be rounded to `T`.
    /// `chunk` is the ring's chunk that the element is in.
    #[inline]
    pub(super) fn sum<T: Float>(self, parts: &[f32], chunk: usize) -> f32 {
        let ranks = self.count;
        let rounded = |sum: f32| T::from_f32(sum).to_f32();
        let along = |rank: &dyn Fn(usize) -> usize| {
            let others = (1..ranks).map(|number| parts[rank(number)]);
            others.fold(parts[rank(0)], |sum, part| rounded(sum) + part)
        };
        match self.order {
            AllReduce::RankOrder | AllReduce::Unknown => along(&|number| number),
            AllReduce::GlooRing => along(&|number| (chunk + ranks - 1 + ranks - number) % ranks),
            AllReduce::NcclRing => along(&|number| (chunk + 1 + number) % ranks),
            AllReduce::Tree => tree(parts, &rounded),
            AllReduce::Wide => parts.iter().sum(),
        }
    }

    /// Whether `value` is the sum of the parts in any order, with a rounding after every addition or after
    /// the last one only. `None` if there are too many orders to look through.
    pub(super) fn any_gives<T: Float>(self, parts: &[f32], value: f32) -> Option<bool> {
        if parts.len() > MOST_RANKS {
            return None;
        }
        let rounded = |sum: f32| T::from_f32(sum).to_f32();
        // The sums that a set of ranks, by its bits, can have.
        let mut sums: Vec<Vec<f32>> = vec![Vec::new(); 1 << parts.len()];
        for ranks in 1_usize..1 << parts.len() {
            if ranks.is_power_of_two() {
                sums[ranks].push(parts[ranks.ilog2() as usize]);
                continue;
            }
            let mut found = Vec::new();
            let mut some = (ranks - 1) & ranks;
            // Every way to take a set in two, once.
            while some > ranks ^ some {
                for (a, b) in sums[some]
                    .iter()
                    .flat_map(|a| sums[ranks ^ some].iter().map(move |b| (a, b)))
                {
                    let sum = rounded(a + b);
                    if !found.contains(&sum) {
                        found.push(sum);
                    }
                }
                some = (some - 1) & ranks;
            }
            sums[ranks] = found;
        }
        let wide: f64 = parts.iter().map(|part| f64::from(*part)).sum();
        let all = sums.pop().unwrap_or_default();
        Some(all.contains(&value) || rounded(wide as f32) == value)
    }

    /// How many elements a chunk of a ring has, of a tensor of so many that are stored in so many bytes
    /// each.
    pub(super) fn chunk(self, elements: usize, bytes: usize) -> usize {
        let ranks = self.count;
        let chunk = match self.order {
            AllReduce::GlooRing => {
                let total = elements * bytes;
                let longest = bytes * (GLOO_SEGMENT / bytes).max(1);
                let segments = total.div_ceil(longest).max(2 * ranks);
                let segments = segments.next_multiple_of(ranks);
                let segment = total.div_ceil(segments).next_multiple_of(bytes);
                segments / ranks * segment / bytes
            }
            _ => elements.div_ceil(ranks),
        };
        chunk.max(1)
    }
}

/// Pairs, and pairs of pairs; the last one may be alone.
fn tree(parts: &[f32], rounded: &dyn Fn(f32) -> f32) -> f32 {
    match parts.len() {
        0 => 0.0,
        1 => parts[0],
        n => {
            let half = n.next_power_of_two() / 2;
            let (left, right) = parts.split_at(half);
            rounded(tree(left, rounded)) + rounded(tree(right, rounded))
        }
    }
}

impl AllReduce {
    /// Every one that is known.
    pub const KNOWN: [Self; 5] = [
        Self::RankOrder,
        Self::GlooRing,
        Self::NcclRing,
        Self::Tree,
        Self::Wide,
    ];

    /// Whether it is the one that is meant where none is named.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for AllReduce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RankOrder => "rank after rank",
            Self::GlooRing => "gloo's ring",
            Self::NcclRing => "NCCL's ring",
            Self::Tree => "a tree",
            Self::Wide => "fp32, rounded once",
            Self::Unknown => "an order that is not known",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn sum(order: AllReduce, parts: &[f32], chunk: usize) -> f32 {
        let partials = Partials {
            count: parts.len(),
            order,
        };
        bf16::from_f32(partials.sum::<bf16>(parts, chunk)).to_f32()
    }

    /// 256 + 1 rounds to 256 in bf16, so that the order of 256, 1, 1, 1 shows in the result.
    #[test]
    fn orders_are_those_that_their_names_say() {
        let parts = [256.0, 1.0, 1.0, 1.0];
        assert_eq!(sum(AllReduce::RankOrder, &parts, 0), 256.0);
        assert_eq!(sum(AllReduce::Tree, &parts, 0), 258.0);
        // 259 is a tie between 258 and 260.
        assert_eq!(sum(AllReduce::Wide, &parts, 0), 260.0);
        // Chunk 0 ends with rank 0, chunk 1 starts with it, chunk 3 has it third.
        assert_eq!(sum(AllReduce::GlooRing, &parts, 0), 260.0);
        assert_eq!(sum(AllReduce::GlooRing, &parts, 1), 256.0);
        assert_eq!(sum(AllReduce::GlooRing, &parts, 2), 256.0);
        assert_eq!(sum(AllReduce::GlooRing, &parts, 3), 260.0);
        assert_eq!(sum(AllReduce::NcclRing, &parts, 0), 260.0);
        assert_eq!(sum(AllReduce::NcclRing, &parts, 1), 260.0);
        assert_eq!(sum(AllReduce::NcclRing, &parts, 3), 256.0);
    }

    #[test]
    fn any_order_gives_what_one_of_them_gives() {
        let parts = [256.0, 1.0, 1.0, 1.0, 0.5];
        let partials = Partials {
            count: 5,
            order: AllReduce::Unknown,
        };
        let given = |value| partials.any_gives::<bf16>(&parts, value);
        for order in AllReduce::KNOWN {
            for chunk in 0..5 {
                let sum = sum(order, &parts, chunk);
                assert_eq!(given(sum), Some(true), "{order}");
            }
        }
        assert_eq!(given(262.0), Some(false));
        assert_eq!(partials.any_gives::<bf16>(&[1.0; 9], 9.0), None);
    }

    #[test]
    fn gloo_cuts_the_tensor_into_whole_segments() {
        let gloo = |count| Partials {
            count,
            order: AllReduce::GlooRing,
        };
        // 2560 bf16 of 4 ranks: 8 segments of 640 bytes, chunks of two.
        assert_eq!(gloo(4).chunk(2560, 2), 640);
        // 13 elements, 26 bytes over 8 segments: 4 bytes each.
        assert_eq!(gloo(4).chunk(13, 2), 4);
        // 10 MiB over 4 ranks: segments of 1 MiB, 12 of them, 10 MiB / 12 each.
        let total = 10 << 20;
        assert_eq!(
            gloo(4).chunk(total / 4, 4),
            3 * (total.div_ceil(12).next_multiple_of(4)) / 4
        );
    }
}
