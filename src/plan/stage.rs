//! Names of stages.

use crate::words;
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of a value in a model: the path of the module whose output it is, as `transformers`
/// names it below the model prefix (`h.0.self_attention.dense`, `ln_f`, `logits`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct StageId(Arc<str>);

impl StageId {
    /// The token ids, `[batch, positions]`: what every plan starts from.
    pub const TOKENS: &'static str = "tokens";
    /// The position of every token in its sequence: the other thing that a plan may start from.
    pub const POSITIONS: &'static str = "positions";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number of its block, if it is in one: 3 of `h.3.mlp.gelu`.
    pub fn layer(&self) -> Option<usize> {
        self.0.split('.').find_map(|part| part.parse().ok())
    }

    /// The name that it shares with the same stage of other blocks: `h.*.mlp.gelu`.
    pub fn kind(&self) -> String {
        let number = |part: &str| part.parse::<usize>().is_ok();
        let parts = self
            .0
            .split('.')
            .map(|part| if number(part) { "*" } else { part });
        parts.collect::<Vec<_>>().join(".")
    }
}

impl From<&str> for StageId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for StageId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<StageId> for String {
    fn from(id: StageId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl Borrow<str> for StageId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        words::name(&self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_of_a_block_has_its_number_and_its_kind() {
        let stage = StageId::from("h.12.mlp.gelu");
        assert_eq!(
            (stage.layer(), stage.kind().as_str()),
            (Some(12), "h.*.mlp.gelu")
        );
        let stage = StageId::from("ln_f");
        assert_eq!((stage.layer(), stage.kind().as_str()), (None, "ln_f"));
    }
}
