//! The table of an architecture's stages: what each is for, and how frameworks' hooks show it.

use super::{Framework, Part};
use crate::plan::StageId;
use crate::tensor::{Join, Layout};

/// What a stage is for, whatever an architecture calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Rows of the token embedding.
    Embedding,
    /// Rows of the embedding of positions.
    Positions,
    /// Cosines or sines of rotary positions.
    Rotary,
    /// Sum of the embeddings of tokens and positions.
    Embedded,
    /// A norm of the embeddings, before the first block.
    EmbeddingNorm,
    /// The norm before attention or before an MLP.
    Norm,
    /// A projection to queries, keys or values, or to all of them.
    Qkv,
    /// Queries, keys or values by head.
    Heads,
    /// Attention scores, before the softmax.
    Scores,
    /// Attention probabilities.
    Probs,
    /// Values weighted by probabilities, heads side by side.
    Context,
    /// Attention's output projection.
    AttentionOutput,
    /// The residual stream between attention and MLP.
    Attention,
    /// A projection into an MLP.
    MlpUp,
    /// An MLP's activation function, before a gate is multiplied.
    Activation,
    /// An activation times what it gates.
    Gated,
    /// The projection out of an MLP.
    MlpDown,
    /// A router's logits.
    Router,
    /// The numbers of the experts that a router chose.
    Choice,
    /// By what it weights them.
    RouterWeights,
    /// What chosen experts gave, each times its weight.
    Weighted,
    /// Their sum.
    Experts,
    /// The residual stream after a block.
    Block,
    /// The norm after the last block.
    FinalNorm,
    /// Scores of all tokens of the vocabulary.
    Logits,
}

/// A row of the table.
pub(crate) struct Stage {
    /// Its name, with `{layer}` for the number of its block.
    pub(super) id: &'static str,
    pub(super) role: Role,
    /// The hooks that show it; several may show the same.
    pub(super) hooks: &'static [Hook],
}

/// The last axis of `[sequence, batch, ·]` and of `[batch, sequence, ·]`.
pub(super) const LAST: usize = 2;
/// The heads of `[sequence, batch, heads, head_dim]`.
pub(super) const INNER: usize = 2;
/// The heads of `[batch, heads, query, key]`.
pub(super) const HEADS: usize = 1;

/// What the rows of an array are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Axes of their own, the batch's and the sequence's, as the layout has them.
    Grid,
    /// All tokens, one after the other in the order of the layout.
    Tokens,
    /// The same, of the experts that a router chose for a token.
    Chosen(ChoiceForm),
    /// The same, of the weights that it gave them.
    Weights(ChoiceForm),
    /// The tokens that one expert was chosen for.
    OfExpert,
    /// The numbers of these tokens.
    Places,
}

/// How a framework writes a choice of experts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChoiceForm {
    /// A column for each of the chosen, with its number.
    Numbers,
    /// A column for each that there is.
    Map,
}

/// How a framework's hook shows a stage.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(super) framework: Framework,
    /// The module's path as the framework's importer spells it, with `{layer}` where the stage has it,
    /// and `.input` or `.output`.
    pub(super) name: &'static str,
    pub(crate) layout: Layout,
    pub(crate) join: Join,
    pub(crate) rows: Rows,
    /// Which part of the array the stage is; `None` if it is all of it.
    pub(crate) part: Option<Part>,
    /// Whether ranks may have gathered what they have slices of; it is the same on all of them then.
    pub(crate) may_be_gathered: bool,
    /// Whether there is one row where the batch has the same in all of them.
    pub(crate) one_row: bool,
    /// Whether the module's bias is still to be added.
    pub(crate) without_bias: bool,
    /// Whether the value is divided by the layer's number, in runs with query-key layer scaling.
    pub(crate) divided_by_layer: bool,
}

/// A hook that was found, and the stage it shows.
pub(crate) struct Hooked {
    pub(crate) stage: StageId,
    /// The number of its block.
    pub(crate) layer: Option<usize>,
    /// The number of the expert that it is of.
    pub(crate) expert: Option<usize>,
    pub(crate) hook: &'static Hook,
}

impl Stage {
    pub(super) const fn new(id: &'static str, role: Role, hooks: &'static [Hook]) -> Self {
        Self { id, role, hooks }
    }
}

impl Hook {
    /// A hook whose array is `[batch, sequence, …]`, plain, and the same on all ranks.
    const fn new(framework: Framework, name: &'static str) -> Self {
        Self {
            framework,
            name,
            layout: Layout::Bsh,
            join: Join::Replicated,
            rows: Rows::Grid,
            part: None,
            may_be_gathered: false,
            one_row: false,
            without_bias: false,
            divided_by_layer: false,
        }
    }

    /// `[sequence, batch, …]`.
    pub(super) const fn sbh(self) -> Self {
        let layout = Layout::Sbh;
        Self { layout, ..self }
    }

    /// `[batch, heads, …]`.
    pub(super) const fn bnss(self) -> Self {
        let layout = Layout::Bnss;
        Self { layout, ..self }
    }

    /// Every rank has a slice of this axis.
    pub(super) const fn sharded(self, axis: usize) -> Self {
        let join = Join::Concat(axis);
        Self { join, ..self }
    }

    /// `[sequence, batch, heads, head_dim]`.
    pub(super) const fn sbnd(self) -> Self {
        let layout = Layout::Sbnd;
        Self { layout, ..self }
    }

    /// `[batch, sequence, heads, head_dim]`.
    pub(super) const fn bsnd(self) -> Self {
        let layout = Layout::Bsnd;
        Self { layout, ..self }
    }

    /// The stage is a part of the array, of which every rank has its own.
    pub(super) const fn part(self, part: Part) -> Self {
        Self {
            part: Some(part),
            ..self.sharded(part.axis())
        }
    }

    /// Its rows are these.
    pub(super) const fn rows(self, rows: Rows) -> Self {
        Self { rows, ..self }
    }

    /// Ranks may have gathered it.
    pub(super) const fn may_be_gathered(self) -> Self {
        let may_be_gathered = true;
        Self {
            may_be_gathered,
            ..self
        }
    }

    /// The batch may have been left out, as all its rows are the same.
    pub(super) const fn one_row(self) -> Self {
        let one_row = true;
        Self { one_row, ..self }
    }

    pub(super) const fn without_bias(self) -> Self {
        Self {
            without_bias: true,
            ..self
        }
    }

    pub(super) const fn divided_by_layer(self) -> Self {
        Self {
            divided_by_layer: true,
            ..self
        }
    }
}

/// A hook of transformers.
pub(super) const fn hf(name: &'static str) -> Hook {
    Hook::new(Framework::Transformers, name)
}

/// A hook of Megatron-DeepSpeed.
pub(super) const fn megatron(name: &'static str) -> Hook {
    Hook::new(Framework::MegatronDeepspeed, name)
}

/// A hook of megatron-core.
pub(super) const fn core(name: &'static str) -> Hook {
    Hook::new(Framework::MegatronCore, name)
}

/// An architecture's stages, in execution order: rows that belong together, which relatives share.
pub(super) type Table = &'static [&'static [Stage]];

/// All rows of a table.
pub(super) fn rows(table: Table) -> impl Iterator<Item = &'static Stage> {
    table.iter().copied().flatten()
}

/// The row of a stage.
pub(super) fn named(table: Table, stage: &StageId) -> Option<&'static Stage> {
    let named = |row: &&Stage| numbers(row.id, stage.as_str()).is_some();
    rows(table).find(named)
}

/// The stages that a hook of this name shows: several where a framework computes them at once.
pub(super) fn hooked(table: Table, framework: Framework, name: &str) -> Vec<Hooked> {
    let shown = |row: &'static Stage| {
        let mut hooks = row.hooks.iter();
        hooks.find_map(|hook| {
            let numbers = numbers(hook.name, name).filter(|_| hook.framework == framework)?;
            Some(Hooked {
                stage: filled(row.id, &numbers).into(),
                layer: numbers.first().copied(),
                expert: numbers.get(1).copied(),
                hook,
            })
        })
    };
    rows(table).filter_map(shown).collect()
}

/// The numbers that stand in `name` for the placeholders of `pattern`; `None` if it is another name.
fn numbers(pattern: &str, name: &str) -> Option<Vec<usize>> {
    if pattern.split('.').count() != name.split('.').count() {
        return None;
    }
    let mut numbers = Vec::new();
    for (part, found) in pattern.split('.').zip(name.split('.')) {
        if is_placeholder(part) {
            numbers.push(found.parse().ok()?);
        } else if part != found {
            return None;
        }
    }
    Some(numbers)
}

/// The pattern with numbers for its placeholders.
fn filled(pattern: &str, numbers: &[usize]) -> String {
    let mut numbers = numbers.iter();
    let parts = pattern.split('.').map(|part| {
        let number = is_placeholder(part).then(|| numbers.next()).flatten();
        number.map_or(part.to_owned(), usize::to_string)
    });
    parts.collect::<Vec<_>>().join(".")
}

pub(super) fn is_placeholder(part: &str) -> bool {
    part.starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::super::ArchitectureName;
    use super::*;

    #[test]
    fn names_and_patterns_are_each_others() {
        let pattern = "layers.{layer}.mlp.experts.{expert}.down_proj";
        let name = "layers.3.mlp.experts.17.down_proj";
        assert_eq!(numbers(pattern, name), Some(vec![3, 17]));
        assert_eq!(filled(pattern, &[3, 17]), name);
        assert_eq!(numbers(pattern, "layers.3.mlp.experts.x.down_proj"), None);
        assert_eq!(numbers("h.{layer}", "h.3.mlp"), None);
        assert_eq!(numbers("ln_f", "ln_f"), Some(Vec::new()));
    }

    /// Whether a stage is what an MLP gives, or what is in its place.
    fn is_of_mlp(stage: &str) -> bool {
        ["mlp", "mlp.down_proj", "mlp.experts"]
            .iter()
            .any(|end| stage.ends_with(end))
    }

    #[test]
    fn every_name_in_a_table_is_one_stages() {
        let placeholders = |name: &str| name.split('.').filter(|part| is_placeholder(part)).count();
        for name in ArchitectureName::all() {
            let Some(runnable) = name.architecture().runnable() else {
                continue;
            };
            for row in rows(runnable.stages) {
                let same = rows(runnable.stages).filter(|other| other.id == row.id);
                assert_eq!(same.count(), 1, "{}", row.id);
                for hook in row.hooks {
                    // A stage is of all experts.
                    let of_expert = matches!(hook.rows, Rows::OfExpert | Rows::Places);
                    let own = placeholders(hook.name) - usize::from(of_expert);
                    assert_eq!(own, placeholders(row.id), "{hook:?}");
                    let shown = filled(hook.name, &[5, 7]);
                    let found = hooked(runnable.stages, hook.framework, &shown);
                    let id = filled(row.id, &[5, 7]);
                    let itself = found.iter().filter(|found| found.stage.as_str() == id);
                    assert_eq!(itself.count(), 1, "{hook:?}");
                    // An array is several stages if each is a part of it, or if a block has one or the other.
                    let parts = found.iter().all(|found| found.hook.part.is_some());
                    let one_of = found.iter().all(|found| is_of_mlp(found.stage.as_str()));
                    assert!(found.len() == 1 || parts || one_of, "{hook:?}");
                }
            }
        }
    }
}
