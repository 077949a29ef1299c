//! Which training arguments a conversion knows.
//!
//! An argument may change what a model computes and show in no tensor. Every one has to be handled by the
//! recipe, or be known to be without effect; what Megatron adds tomorrow is refused until it was looked at.
//! `None`, `False`, an empty text and an empty list switch nothing on; 0 is a value.

use crate::checkpoint::megatron::{Arg, MegatronCheckpoint};
use crate::error::{BadInput, Result};
use std::collections::HashSet;
use std::sync::LazyLock;

/// What an architecture's recipe makes of arguments.
pub(crate) struct Arguments {
    /// Those that it reads.
    pub(super) handled: &'static [&'static str],
    /// Those that are without effect on it, besides those that are on every model.
    pub(super) without_effect: &'static [&'static str],
    /// What it has to be told, since no tensor shows it: one name of each is enough.
    pub(super) required: &'static [&'static [&'static str]],
}

/// Those that are without effect on every model, whatever their value.
static WITHOUT_EFFECT: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    let lines = include_str!("without_effect.txt").lines();
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).collect()
});

/// Those that are without effect on every model at one value.
const NEUTRAL: [(&str, &[&str]); 8] = [
    ("softmax_type", &["vanilla"]),
    ("rope_type", &["rope"]),
    ("rotary_percent", &["1.0", "1"]),
    ("glu_linear_offset", &["0.0", "0"]),
    ("mtp_num_layers", &["0"]),
    ("window_size", &["[-1, -1]", "(-1, -1)"]),
    ("tensor_parallel_num_weight_shards", &["1"]),
    ("gtp_weight_remat_size", &["1"]),
];

impl Arguments {
    /// Checks that a checkpoint says all that is required, and nothing that is not known.
    ///
    /// # Errors
    /// [`BadInput`] that names all arguments that are missing, or else all that are unknown.
    pub(crate) fn check(&self, checkpoint: &MegatronCheckpoint, architecture: &str) -> Result<()> {
        let args = checkpoint.args();
        let missing = self.required.iter().filter(|names| {
            let mut names = names.iter();
            names.all(|name| args.get(name).is_none())
        });
        let missing: Vec<&str> = missing.map(|names| names[0]).collect();
        if !missing.is_empty() {
            let expected = format!("the training arguments that a {architecture} needs");
            let found = format!("no {}", missing.join(", "));
            let given = missing.iter().map(|name| format!("--arg {name}=VALUE"));
            let given = given.collect::<Vec<_>>().join(" ");
            let fault = BadInput::new(args.origin(), expected, found);
            let remedy = format!("say what the run had: {given}");
            return Err(fault.remedy(remedy).into());
        }
        let unknown = args.iter().filter(|(name, arg)| !self.knows(name, arg));
        let unknown: Vec<(&str, &Arg)> = unknown.collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let expected = format!(
            "arguments that the conversion to transformers' {architecture} handles or that are known to be \
             without effect"
        );
        let found = unknown.iter().map(|(name, arg)| format!("{name}={arg}"));
        let found = found.collect::<Vec<_>>().join(", ");
        let accepted = unknown
            .iter()
            .map(|(name, _)| format!("--without-effect {name}"));
        let accepted = accepted.collect::<Vec<_>>().join(" ");
        let remedy = format!("where you know that it changes nothing, convert with {accepted}");
        let fault = BadInput::new(args.origin(), expected, found);
        Err(fault.remedy(remedy).into())
    }

    fn knows(&self, name: &str, arg: &Arg) -> bool {
        let mut own = self.handled.iter().chain(self.without_effect);
        let neutral = || {
            let at = NEUTRAL.iter().find(|(neutral, _)| *neutral == name);
            at.is_some_and(|(_, values)| values.contains(&arg.to_string().as_str()))
        };
        arg.is_empty()
            || own.any(|known| *known == name)
            || WITHOUT_EFFECT.contains(name)
            || neutral()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ArchitectureName;
    use clap::ValueEnum;
    use serde_json::{Map, Value};

    /// The attributes of Megatron-LM's arguments (846 of them), with the values of one run: a Llama.
    fn megatron_lm() -> Map<String, Value> {
        let text = include_str!("../../../tests/fixtures/megatron_lm_arguments.json");
        serde_json::from_str(text).expect("JSON")
    }

    fn arg(value: &Value) -> Arg {
        match value {
            Value::Null => Arg::None,
            Value::Bool(value) => Arg::Flag(*value),
            Value::Number(value) => match value.as_i64() {
                Some(value) => Arg::Int(value),
                None => Arg::Float(value.as_f64().expect("a number")),
            },
            Value::String(value) => Arg::Text(value.clone()),
            other => Arg::Other(other.to_string()),
        }
    }

    #[test]
    fn a_real_run_has_no_unknown_argument() {
        let llama = ArchitectureName::Llama.architecture().arguments();
        for (name, value) in megatron_lm() {
            assert!(llama.knows(&name, &arg(&value)), "{name}={value}");
        }
    }

    /// The arguments that no conversion takes at a value that is new to it: all of them change what a model
    /// computes.
    #[test]
    fn what_changes_the_computation_is_refused() {
        let mut listing = String::new();
        for architecture in ArchitectureName::value_variants() {
            let of = architecture.architecture();
            let other = Arg::Text("something new".into());
            let all = megatron_lm();
            let refused = all
                .keys()
                .filter(|name| !of.arguments().knows(name, &other));
            let refused: Vec<&str> = refused.map(String::as_str).collect();
            listing += &format!("{}: {}\n", of.name(), refused.join(" "));
        }
        insta::assert_snapshot!(listing);
    }

    #[test]
    fn names_stand_in_one_list() {
        for architecture in ArchitectureName::value_variants() {
            let Arguments {
                handled,
                without_effect,
                required,
            } = architecture.architecture().arguments();
            let own = handled.iter().chain(*without_effect);
            let mut all: Vec<&str> = own
                .chain(NEUTRAL.iter().map(|(name, _)| name))
                .copied()
                .collect();
            all.extend(WITHOUT_EFFECT.iter());
            all.sort_unstable();
            let twice = all
                .windows(2)
                .find(|pair| pair[0] == pair[1] && pair[0] != "rotary_percent");
            assert_eq!(twice, None, "{architecture}");
            let mut asked = required.iter().copied().flatten();
            assert!(asked.all(|name| handled.contains(name)), "{architecture}");
        }
    }

    #[test]
    fn nothing_switches_nothing_on_but_zero_is_a_value() {
        let nobodys = |arg: Arg| {
            let llama = ArchitectureName::Llama.architecture().arguments();
            llama.knows("nobody_has_heard_of_it", &arg)
        };
        for nothing in [
            Arg::None,
            Arg::Flag(false),
            Arg::Text(String::new()),
            Arg::Other("[]".into()),
        ] {
            assert!(nobodys(nothing));
        }
        for value in [
            Arg::Flag(true),
            Arg::Int(0),
            Arg::Float(0.0),
            Arg::Text("no".into()),
        ] {
            assert!(!nobodys(value));
        }
    }
}
