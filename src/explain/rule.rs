//! What a rule is.

use super::{Bug, Context, Rewrite};
use crate::error::Result;

/// One thing that goes wrong in conversions: how it is recognised, and bugs of its kind, made on
/// purpose, that it has to recognise.
pub trait Rule: Sync {
    /// Its name in reports, which stays: `qkv-layout`.
    fn id(&self) -> &'static str;

    /// What goes wrong, in a sentence.
    fn what(&self) -> &'static str;

    /// The rewrites of a subgraph that the rule has anything to say about: each is a hypothesis, which
    /// is right if the rewritten subgraph gives what was recorded.
    ///
    /// # Errors
    /// If a weight or a recorded value cannot be read.
    fn rewrites<'a>(&self, context: &Context<'a>) -> Result<Vec<Rewrite<'a>>>;

    /// Deliberate bugs that the rule's findings name.
    fn bugs(&self) -> Vec<Bug>;
}
