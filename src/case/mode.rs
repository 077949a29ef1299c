//! Where a stage's inputs come from.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where the inputs of a compared stage came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// From the reference: what differs arose in this stage.
    Isolated,
    /// From our own earlier stages: what differs has accumulated.
    Chained,
    /// Nothing was computed: both sides are dumps.
    Recorded,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Isolated => "isolated",
            Self::Chained => "chained",
            Self::Recorded => "recorded",
        })
    }
}
