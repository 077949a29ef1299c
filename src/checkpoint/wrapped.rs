//! Names of tensors without what wrappers of modules put into them.

use super::{Stored, Weights};
use crate::error::{BadInput, Result};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::path::Path;

/// What wrappers put before the names of a whole model: DistributedDataParallel, DeepSpeed and Float16Module,
/// training loops.
const BEFORE: [&str; 2] = ["module", "model"];
/// What they put before a module's own, anywhere: `torch.compile`, FSDP, activation checkpointing.
const ANYWHERE: [&str; 4] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
];

/// A name without its wrappers.
pub(crate) fn bare(name: &str) -> String {
    let mut parts = name
        .split('.')
        .filter(|part| !ANYWHERE.contains(part))
        .peekable();
    while parts.next_if(|part| BEFORE.contains(part)).is_some() {}
    parts.collect::<Vec<_>>().join(".")
}

/// What to say of names that have wrappers; `None` if none has.
pub(super) fn note<'a>(mut wrapped: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let (long, short) = wrapped.next()?;
    let more = match wrapped.count() {
        0 => String::new(),
        more => format!(", and {more} more likewise"),
    };
    Some(format!("{long} is read as {short}{more}"))
}

/// Weights under their names without wrappers, and without the prefix of a model under a head.
pub(super) struct Bare {
    under: Box<dyn Weights>,
    /// The name that is stored, by the bare one.
    stored: BTreeMap<String, String>,
    note: Option<String>,
}

impl Bare {
    /// Of the weights in `folder`.
    ///
    /// # Errors
    /// If a tensor is there under two names that are one, and not the same.
    pub(super) fn new(under: Box<dyn Weights>, prefix: &str, folder: &Path) -> Result<Self> {
        let mut stored: BTreeMap<String, String> = BTreeMap::new();
        let base = bare(prefix);
        for name in under.names() {
            let short = bare(name);
            let short = short.strip_prefix(&*base).unwrap_or(&short).to_owned();
            if let Some(other) = stored.get(&short)
                && !under.load(name)?.bits_equal(&under.load(other)?)
            {
                let expected = format!("one tensor {short}, as {name} or as {other}");
                let found = "both, with different values";
                let remedy =
                    "remove the one that is not meant; transformers loads the one without prefix";
                let fault = BadInput::new(folder, expected, found);
                return Err(fault.remedy(remedy).into());
            }
            stored.insert(short, name.to_owned());
        }
        let wrapped = stored
            .iter()
            .filter(|(short, name)| name.strip_prefix(prefix).unwrap_or(name) != short.as_str());
        let note = note(wrapped.map(|(short, name)| (name.as_str(), short.as_str())));
        Ok(Self {
            under,
            stored,
            note,
        })
    }

    /// What to say of names that had wrappers.
    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}

impl Weights for Bare {
    fn names(&self) -> Vec<&str> {
        self.stored.keys().map(String::as_str).collect()
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        self.under.stored(self.stored.get(name)?)
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        self.under
            .load(self.stored.get(name).map_or(name, String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_left_off() {
        for (name, expected) in [
            ("module.module.decoder.x", "decoder.x"),
            ("_orig_mod.model.layers.0.w", "layers.0.w"),
            (
                "model.layers.0._checkpoint_wrapped_module.mlp.w",
                "layers.0.mlp.w",
            ),
            ("transformer.h.0.model.w", "transformer.h.0.model.w"),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(bare(name), expected);
        }
    }
}
