//! What was found.

use super::Evidence;
use crate::plan::StageId;
use std::collections::BTreeSet;

/// Why some stages of one kind fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The stages, in execution order.
    pub stages: Vec<StageId>,
    /// The difference as it is.
    pub before: Evidence,
    /// What brings it back, one after the other; empty if no rule does.
    pub causes: Vec<Cause>,
    /// Whether the causes explain all of the difference.
    pub complete: bool,
    /// What else narrows it: of an explanation that is not complete.
    pub hints: Vec<String>,
    /// Stages of this kind that fail as well and were not looked into, since nothing was found at others.
    pub untried: Vec<StageId>,
}

/// One cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// The id of the rule that found it; `None` where the reference's arithmetic alone brings the
    /// difference back.
    pub rule: Option<&'static str>,
    /// What is wrong: `weight rows are ordered [3, heads, d], the model expects [heads, 3, d]`.
    pub finding: String,
    /// What was changed to test it: `with the rows reordered`.
    pub remedy: String,
    /// The difference that is left.
    pub after: Evidence,
    /// Other findings that fit the data as well.
    pub alternatives: Vec<String>,
    /// Of a module that has the weights of the same module of another layer.
    pub exchanged: Option<Exchanged>,
    /// The parameters that it is of.
    pub about: Vec<String>,
}

/// A module, and a layer that has its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// What the module is in every block: `h.*.mlp.dense_h_to_4h`.
    pub module: String,
    /// Its own layer, and the one whose weights it lacks.
    pub layers: [usize; 2],
}

impl Explanation {
    /// Whether another explanation says the same of other stages: one cause found at many layers.
    pub fn says(&self, other: &Self) -> bool {
        let findings = |of: &Self| -> Vec<String> {
            of.causes
                .iter()
                .map(|cause| cause.finding.clone())
                .collect()
        };
        self.complete && other.complete && findings(self) == findings(other)
    }

    /// What its stages are in every block: `h.*.self_attention.dense`.
    pub fn kind(&self) -> String {
        self.stages.first().map_or(String::new(), StageId::kind)
    }

    /// The name of its stages: `h.*.self_attention.dense` if there are several, with how many other kinds there
    /// are.
    pub fn place(&self) -> String {
        let kinds: BTreeSet<String> = self.stages.iter().map(StageId::kind).collect();
        match (self.stages.as_slice(), kinds.len()) {
            ([], _) => String::new(),
            ([only], _) => only.to_string(),
            (_, 0 | 1) => self.kind(),
            (_, 2) => format!("{} and another kind", self.kind()),
            (_, kinds) => format!("{} and {} other kinds", self.kind(), kinds - 1),
        }
    }
}
