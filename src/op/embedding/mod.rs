//! Embedding lookup.

mod cuda;

use super::extended;
use super::{Locality, Operation};
use serde::Serialize;
use std::fmt;

/// tokens `[b, s]`, weight `[v, h]` → `[b, s, h]`: rows of the weight, copied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Embedding;

impl Operation for Embedding {
    fn shape(&self, inputs: &[&[usize]], params: &[&[usize]]) -> Option<Vec<usize>> {
        match (inputs, params) {
            ([tokens @ [_, _]], [[_, hidden]]) => Some(extended(tokens, *hidden)),
            _ => None,
        }
    }

    fn locality(&self) -> Locality {
        Locality::Row
    }
}

impl fmt::Display for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("embedding")
    }
}
