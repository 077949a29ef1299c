//! How the arrays of ranks make one: replicas, slices of an axis, parts of the sequence.
//!
//! Which of them a rank's array is, its shape says: with sequence parallelism the values that ranks
//! would hold copies of are scattered along the sequence, `s / tp` rows a rank in rank order; with
//! context parallelism all values are, two of `2·cp` chunks a rank, `r` and `2·cp − 1 − r`, so that
//! causal attention is as much work on every rank.

use crate::compare::{DRIFT_ULPS, Replicas};
use crate::error::{BadInput, Error, Result};
use crate::plan::StageId;
use crate::tensor::{Join, Layout, Tensor};
use std::path::PathBuf;

/// The ranks that a run was spread over. Of `tensor * context * expert` arrays, those of the
/// tensor-parallel ranks of one context come one after the other; ranks of both contexts and experts are refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranks {
    /// Ranks that share every weight.
    pub(super) tensor: usize,
    /// Ranks that share every sequence.
    pub(super) context: usize,
    /// Ranks that have experts of their own, and sequences: equal parts of the batch. They share all other weights.
    pub(super) expert: usize,
    /// Whether the settings say that values are scattered along the sequence; `None` if they do not.
    pub(super) sequence_parallel: Option<bool>,
}

/// How the arrays that ranks recorded of a stage are to be joined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharding {
    /// The order of their axes.
    pub(super) layout: Layout,
    pub(super) join: Join,
    /// Whether ranks may have gathered what they have slices of; it is the same on all of them then.
    pub(super) may_be_gathered: bool,
}

/// What ranks' arrays make.
pub(super) struct Joined {
    pub(super) value: Tensor,
    /// How the files made it.
    pub(super) join: Join,
    /// The order of its axes.
    pub(super) layout: Layout,
    /// How far replicas are apart, if they are.
    pub(super) drift: Option<f64>,
    /// Whether no join of files gives it.
    pub(super) is_made: bool,
}

impl Ranks {
    /// One process.
    pub(super) const ONE: Self = Self {
        tensor: 1,
        context: 1,
        expert: 1,
        sequence_parallel: None,
    };

    /// How many arrays a stage has.
    pub(super) fn files(&self) -> usize {
        self.tensor * self.context * self.expert
    }

    /// The value of a stage of these tokens `[batch, positions]`, of what every rank recorded.
    pub(super) fn join(
        &self,
        stage: &StageId,
        shards: &[Tensor],
        files: &[&PathBuf],
        sharding: Sharding,
        [batch, positions]: [usize; 2],
    ) -> Result<Joined> {
        let tokens = [batch / self.expert, positions / self.context];
        let mut contexts = shards
            .chunks(self.tensor)
            .zip(files.chunks(self.tensor))
            .map(|(shards, files)| self.join_context(stage, shards, files, sharding, tokens))
            .collect::<Result<Vec<Joined>>>()?;
        if contexts.len() == 1 {
            return Ok(contexts.swap_remove(0));
        }
        let layout = contexts[0].layout;
        let drift = contexts.iter().filter_map(|context| context.drift);
        let drift = drift.reduce(f64::max);
        let values: Vec<Tensor> = contexts.into_iter().map(|context| context.value).collect();
        let value = match self.context {
            1 => Tensor::concat(&values, layout.batch_axis()),
            _ => zigzag(&values, layout.sequence_axis()),
        };
        let value = value.map_err(|e| e.in_file(files[0]))?;
        Ok(Joined {
            value,
            join: Join::Replicated,
            layout,
            drift,
            is_made: true,
        })
    }

    /// The value of the tensor-parallel ranks of one context, of their tokens `[batch, positions]`.
    fn join_context(
        &self,
        stage: &StageId,
        shards: &[Tensor],
        files: &[&PathBuf],
        sharding: Sharding,
        tokens: [usize; 2],
    ) -> Result<Joined> {
        let Sharding { layout, join, .. } = sharding;
        let first = &shards[0];
        let are_equal = || shards.iter().all(|shard| shard.bits_equal(first));
        let joined = |value, join, layout, drift| Joined {
            value,
            join,
            layout,
            drift,
            is_made: false,
        };
        match join {
            Join::Concat(_) if sharding.may_be_gathered && are_equal() => {
                Ok(joined(first.clone(), Join::Replicated, layout, None))
            }
            Join::Concat(axis) => {
                let value = Tensor::concat(shards, axis).map_err(|e| e.in_file(files[0]))?;
                Ok(joined(value, join, layout, None))
            }
            Join::Replicated => match self.scattered(first, layout, tokens) {
                Some(layout) => {
                    if self.sequence_parallel == Some(false) {
                        let expected = format!(
                            "all {} positions of {stage}, as sequence_parallel is false",
                            tokens[1]
                        );
                        let found = format!("shape {:?}, a part of them", first.shape());
                        let remedy =
                            "dump the run again with parity_dump.py, or correct the settings";
                        let fault = BadInput::new(files[0], expected, found);
                        return Err(fault.remedy(remedy).into());
                    }
                    let axis = layout.sequence_axis();
                    let value = Tensor::concat(shards, axis).map_err(|e| e.in_file(files[0]))?;
                    Ok(joined(value, Join::Concat(axis), layout, None))
                }
                None => {
                    let drift = (!are_equal()).then(|| drift(stage, shards, files));
                    let drift = drift.transpose()?;
                    Ok(joined(first.clone(), Join::Replicated, layout, drift))
                }
            },
        }
    }

    /// The order of the axes of an array that is a rank's part of the sequence; `None` if it is not one.
    /// Megatron scatters the first axis, for which it puts the sequence first.
    fn scattered(
        &self,
        array: &Tensor,
        layout: Layout,
        [rows, positions]: [usize; 2],
    ) -> Option<Layout> {
        let is_part = |layout: Layout| {
            let shape = array.shape();
            let is_whole = shape.get(layout.batch_axis()) == Some(&rows);
            let part = shape.get(layout.sequence_axis())?;
            (is_whole && part.checked_mul(self.tensor) == Some(positions)).then_some(layout)
        };
        if self.tensor == 1 || !positions.is_multiple_of(self.tensor) {
            return None;
        }
        match layout {
            Layout::Bsh => is_part(Layout::Sbh).or_else(|| is_part(Layout::Bsh)),
            other => is_part(other),
        }
    }
}

/// How far replicas are apart, which may be no more than rounding makes of them.
fn drift(stage: &StageId, shards: &[Tensor], files: &[&PathBuf]) -> Result<f64> {
    let mut apart = 0.0_f64;
    for (rank, (other, file)) in shards.iter().zip(files).enumerate().skip(1) {
        let replicas = Replicas::new(&shards[0], other).map_err(|e| e.in_file(*file))?;
        if !replicas.are_one() {
            let expected = format!(
                "the values of {stage} that rank 0 has in {}, within the rounding of replicas \
                 ({DRIFT_ULPS} ulps of the largest magnitude, {:.3e}: {:.1e})",
                files[0].display(),
                replicas.largest,
                replicas.drift
            );
            let found = format!("others on rank {rank}, up to {:.3e} apart", replicas.apart);
            let remedy = "these are no replicas: check which module the hook was on and that both \
                          ranks are of one run; leave the arrays out to import the rest";
            return Err(BadInput::new(*file, expected, found).remedy(remedy).into());
        }
        apart = apart.max(replicas.apart);
    }
    Ok(apart)
}

/// The whole sequence of what the ranks of context parallelism have of it.
fn zigzag(ranks: &[Tensor], axis: usize) -> Result<Tensor> {
    let mut firsts = Vec::new();
    let mut lasts = Vec::new();
    for (rank, array) in ranks.iter().enumerate() {
        let rows = array.shape().get(axis).copied().unwrap_or(0);
        if !rows.is_multiple_of(2) || rows == 0 {
            return Err(Error::Mismatch {
                at: format!("rank {rank} of context parallelism"),
                expected: "two chunks of the sequence of one length".into(),
                found: format!("shape {:?}", array.shape()),
            });
        }
        firsts.push(array.slice(axis, 0..rows / 2)?);
        lasts.push(array.slice(axis, rows / 2..rows)?);
    }
    lasts.reverse();
    firsts.append(&mut lasts);
    Tensor::concat(&firsts, axis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    const BATCH: usize = 2;
    const HIDDEN: usize = 3;

    fn whole(sequence: usize) -> Tensor {
        let values = (0..sequence * BATCH * HIDDEN).map(|value| value as f32);
        Tensor::from_vec(&[sequence, BATCH, HIDDEN], values.collect()).unwrap()
    }

    fn ranks(tensor: usize, context: usize) -> Ranks {
        Ranks {
            tensor,
            context,
            expert: 1,
            sequence_parallel: None,
        }
    }

    fn join(ranks: Ranks, shards: &[Tensor], positions: usize) -> Result<Joined> {
        let paths: Vec<PathBuf> = (0..shards.len())
            .map(|rank| Path::new("dumps").join(format!("tp{rank}")))
            .collect();
        let sharding = Sharding {
            layout: Layout::Sbh,
            join: Join::Replicated,
            may_be_gathered: false,
        };
        let paths: Vec<_> = paths.iter().collect();
        ranks.join(&"ln".into(), shards, &paths, sharding, [BATCH, positions])
    }

    proptest! {
        /// Scattered as the frameworks scatter it, a sequence comes out whole.
        #[test]
        fn parts_of_a_sequence_make_it(tensor in 1_usize..5, context in 1_usize..5, rows in 1_usize..4, scatter: bool) {
            let sequence = 2 * context * tensor * rows;
            let all = whole(sequence);
            let chunk = sequence / (2 * context);
            let mut shards = Vec::new();
            for rank in 0..context {
                let of = |chunk_number: usize| {
                    all.slice(0, chunk_number * chunk..(chunk_number + 1) * chunk).unwrap()
                };
                let own = if context == 1 {
                    all.clone()
                } else {
                    Tensor::concat(&[of(rank), of(2 * context - 1 - rank)], 0).unwrap()
                };
                let part = own.shape()[0] / tensor;
                for index in 0..tensor {
                    shards.push(if scatter {
                        own.slice(0, index * part..(index + 1) * part).unwrap()
                    } else {
                        own.clone()
                    });
                }
            }
            let joined = join(ranks(tensor, context), &shards, sequence).unwrap();
            prop_assert!(joined.value.bits_equal(&all));
            prop_assert_eq!(joined.drift, None);
        }
    }

    #[test]
    fn replicas_may_drift_by_rounding_and_no_more() {
        let of = |last: f32| Tensor::from_vec(&[1, BATCH, 1], vec![4.0_f32, last]).unwrap();
        let ulp = 2_f32.powi(-21);
        let drifted = join(ranks(2, 1), &[of(1.0), of(1.0 + 15.0 * ulp)], 1).unwrap();
        assert_eq!(drifted.drift, Some(f64::from(15.0 * ulp)));
        for other in [1.0 + 17.0 * ulp, -1.0, f32::NAN, f32::INFINITY] {
            let error = join(ranks(3, 1), &[of(1.0), of(1.0), of(other)], 1);
            let error = error.err().unwrap().to_string();
            for words in ["ln", "rank 0", "rank 2", "tp0", "tp2", "apart"] {
                assert!(error.contains(words), "{error}");
            }
        }
    }

    #[test]
    fn settings_that_the_shapes_contradict_are_refused() {
        let ranks = Ranks {
            sequence_parallel: Some(false),
            ..ranks(2, 1)
        };
        let parts = [0..2, 2..4].map(|rows| whole(4).slice(0, rows).unwrap());
        let error = join(ranks, &parts, 4).err().unwrap().to_string();
        assert!(error.contains("sequence_parallel is false"), "{error}");
    }
}
