//! Row-parallel sums over four and eight ranks, added as the libraries add them and in orders that nobody
//! knows: a correct model passes, and one with its ranks' weights in a wrong order fails.
//!
//! What the ranks compute is written here, plainly; the recorded inputs are drawn.

use crate::common::{self, Copy};
use half::{bf16, f16};
use parity::diff::{Candidate, Modes, Options, Verdict, diff_candidate};
use parity::explain::Injected;
use parity::golden::Golden;
use parity::tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::fs;

const HIDDEN: usize = 64;
const POSITIONS: usize = 20;

/// How ranks add; written apart from the library's orders.
#[derive(Clone, Copy, Debug)]
enum Adding {
    RankAfterRank,
    GlooRing,
    NcclRing,
    Tree,
    /// In fp32, rounded once.
    Switch,
    /// Every chunk of seven elements in an order of its own.
    Drawn,
}

const ADDING: [Adding; 6] = [
    Adding::RankAfterRank,
    Adding::GlooRing,
    Adding::NcclRing,
    Adding::Tree,
    Adding::Switch,
    Adding::Drawn,
];

struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn uniform(&mut self) -> f32 {
        self.next() as f32 / (1_u64 << 31) as f32
    }
}

fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::Bf16 => bf16::from_f32(x).to_f32(),
        _ => f16::from_f32(x).to_f32(),
    }
}

fn bits(x: f32, dtype: DType) -> [u8; 2] {
    match dtype {
        DType::Bf16 => bf16::from_f32(x).to_le_bytes(),
        _ => f16::from_f32(x).to_le_bytes(),
    }
}

/// The ranks in which an element's parts are added, one after the other.
fn order(adding: Adding, element: usize, ranks: usize) -> Vec<usize> {
    let elements = HIDDEN * POSITIONS;
    match adding {
        Adding::GlooRing => {
            // Elements of two bytes; 2 · ranks segments, two a rank.
            let segment = (2 * elements).div_ceil(2 * ranks).div_ceil(2);
            let last = element / (2 * segment);
            (1..=ranks)
                .map(|back| (last + ranks - back) % ranks)
                .collect()
        }
        Adding::NcclRing => {
            let last = element / elements.div_ceil(ranks);
            (1..=ranks).map(|on| (last + on) % ranks).collect()
        }
        Adding::Drawn => {
            let mut order: Vec<usize> = (0..ranks).collect();
            let mut draw = Draw(element as u64 / 7 + 1);
            draw.next();
            for place in (1..ranks).rev() {
                order.swap(place, draw.next() as usize % (place + 1));
            }
            order
        }
        Adding::RankAfterRank | Adding::Tree | Adding::Switch => (0..ranks).collect(),
    }
}

fn added(adding: Adding, parts: &[f32], element: usize, dtype: DType) -> f32 {
    match adding {
        Adding::Switch => rounded(parts.iter().sum(), dtype),
        Adding::Tree => {
            let mut level = parts.to_vec();
            while level.len() > 1 {
                level = level
                    .chunks(2)
                    .map(|pair| rounded(pair.iter().sum(), dtype))
                    .collect();
            }
            level[0]
        }
        _ => {
            let order = order(adding, element, parts.len());
            let rest = order[1..].iter().map(|rank| parts[*rank]);
            rest.fold(parts[order[0]], |sum, part| rounded(sum + part, dtype))
        }
    }
}

/// A golden of one row-parallel layer: what goes into it, drawn, and what the ranks make of that.
fn golden(copy: &Copy, weight: &[f32], ranks: usize, adding: Adding, seed: u64, dtype: DType) {
    let mut draw = Draw(seed);
    (0..5).for_each(|_| {
        draw.next();
    });
    let scale = 2.0_f32.powi(draw.next() as i32 % 5 - 2);
    let x: Vec<f32> = (0..POSITIONS * HIDDEN)
        .map(|_| rounded(scale * (draw.uniform() + draw.uniform() - 1.0), dtype))
        .collect();
    let length = HIDDEN / ranks;
    let y: Vec<f32> = (0..POSITIONS * HIDDEN)
        .map(|element| {
            let (row, column) = (element / HIDDEN, element % HIDDEN);
            let parts: Vec<f32> = (0..ranks)
                .map(|rank| {
                    let terms = (rank * length..(rank + 1) * length)
                        .map(|k| x[row * HIDDEN + k] * weight[column * HIDDEN + k]);
                    rounded(terms.sum(), dtype)
                })
                .collect();
            added(adding, &parts, element, dtype)
        })
        .collect();
    let path = copy.golden().join(Golden::MANIFEST);
    let manifest = fs::read_to_string(&path).expect("a manifest");
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    manifest["arithmetic"]["tensor_parallel"] = ranks.into();
    let stages = manifest["stages"].as_array_mut().expect("stages");
    stages.retain(|stage| {
        let name = stage["stage"].as_str().expect("a name");
        ["h.0.self_attention.context", "h.0.self_attention.dense"].contains(&name)
    });
    fs::write(&path, manifest.to_string()).expect("written");
    for (stage, values) in [("context", x), ("dense", y)] {
        copy.edit(&format!("h.0.self_attention.{stage}.npy"), true, |bytes| {
            let start = bytes.len() - 2 * values.len();
            let values = values.iter().flat_map(|x| bits(*x, dtype));
            bytes.splice(start.., values);
        });
    }
}

/// The weight with the columns of its ranks one place on.
fn misplaced(weight: &Tensor, ranks: usize) -> Tensor {
    fn moved<T: parity::tensor::Element>(weight: &Tensor, ranks: usize) -> Tensor {
        let values = weight.as_slice::<T>().expect("a type").chunks(HIDDEN);
        let rows = values.flat_map(|row| {
            let mut row = row.to_vec();
            row.rotate_left(HIDDEN / ranks);
            row
        });
        Tensor::from_vec(weight.shape(), rows.collect()).expect("a shape")
    }
    match weight.dtype() {
        DType::Bf16 => moved::<bf16>(weight, ranks),
        _ => moved::<f16>(weight, ranks),
    }
}

#[test]
fn any_order_of_ranks_passes_and_a_wrong_order_of_weights_fails() {
    let name = "h.0.self_attention.dense.weight";
    let draws = (0..9).flat_map(|seed| {
        [4, 8].into_iter().flat_map(move |ranks| {
            let goldens = ["bloom_bf16_tp1", "bloom_fp16_tp1"].into_iter();
            goldens.flat_map(move |golden| ADDING.map(|adding| (seed, ranks, golden, adding)))
        })
    });
    let mut number = 0;
    for (seed, ranks, reference, adding) in common::sample(draws, 55) {
        number += 1;
        let copy = Copy::of(reference);
        let open = || Candidate::open(&copy.model()).expect("a model");
        let correct = open();
        let dtype = correct.dtype;
        let weight = correct.weights.load(name).expect("a weight");
        let wide = weight.widened().expect("numbers");
        let wide: Vec<f32> = wide
            .as_slice::<f64>()
            .expect("fp64")
            .iter()
            .map(|x| *x as f32)
            .collect();
        golden(&copy, &wide, ranks, adding, seed, dtype);
        let golden = Golden::open(copy.golden()).expect("a golden");
        let options = Options {
            modes: Modes::Isolated,
            stages: "*.dense".parse().expect("a pattern"),
            ..Options::default()
        };
        let run = |candidate: &Candidate| {
            let case = copy.case();
            diff_candidate(&case, &golden, candidate, &options, &mut |_| {}).expect("a run")
        };
        let what = format!("{reference}, {ranks} ranks, {adding:?}, {seed}");
        let outcome = run(&correct);
        let [dense] = &outcome.stages[..] else {
            panic!("{what}: {:?}", outcome.stages);
        };
        assert_eq!(
            outcome.verdict(),
            Verdict::Pass,
            "{what}: {:?} {:?}",
            outcome.notes,
            dense.metrics
        );
        let is_known = !matches!(adding, Adding::Drawn);
        let found = outcome
            .notes
            .iter()
            .any(|note| note.contains("ranks added by"));
        assert_eq!(found, is_known, "{what}: {:?}", outcome.notes);
        let wrong = open().with(Injected {
            named_by: String::new(),
            weights: BTreeMap::from([(name.to_owned(), misplaced(&weight, ranks))]),
            rewriting: Box::new(|_| {}),
        });
        assert_eq!(
            run(&wrong).verdict(),
            Verdict::Fail,
            "{what}, weights misplaced"
        );
    }
    assert!(number >= 4);
}
