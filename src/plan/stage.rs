//! Names of stages.

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
    /// The token ids: what every plan starts from.
    pub const TOKENS: &'static str = "tokens";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
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
        f.pad(&self.0)
    }
}
