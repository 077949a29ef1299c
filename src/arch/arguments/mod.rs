//! Which training arguments a conversion knows.
//!
//! An argument may change what a model computes and show in no tensor. Every one has to be handled by the
//! recipe, or be known to be without effect; what Megatron adds tomorrow is refused until it was looked at.
//! `None`, `False`, an empty text and an empty list switch nothing on; 0 is a value.

use crate::checkpoint::megatron::{Arg, MegatronCheckpoint};
use crate::error::{BadInput, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// What an architecture's recipe makes of arguments.
pub(crate) struct Arguments {
    /// Those that it reads.
    pub(super) handled: &'static [&'static [&'static str]],
    /// Those that are without effect on it, besides those that are on every model.
    pub(super) without_effect: &'static [&'static [&'static str]],
    /// What it has to be told, since no tensor shows it: one name of each is enough.
    pub(super) required: &'static [&'static [&'static str]],
    /// What it has to be told besides where a flag is set: the flag, then the argument.
    pub(super) required_by: &'static [(&'static str, &'static str)],
    /// Switches that show in no tensor either, by all of their names. They are off where nothing is said: an older
    /// Megatron knows none of the newer ones.
    pub(super) off: &'static [&'static [&'static str]],
}

/// Those that say how queries and keys are rotated.
pub(super) const OF_ROTATION: &[&str] = &[
    "rotary_base",
    "rotary_percent",
    "rotary_interleaved",
    "rotary_seq_len_interpolation_factor",
    "seq_len_interpolation_factor",
    "rope_scaling",
    "rope_scaling_factor",
    "use_rope_scaling",
];

/// Those that are without effect on every model whose recipe does not read them, whatever their value.
static WITHOUT_EFFECT: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let lines = rows(include_str!("without_effect.txt"));
    lines.flat_map(str::split_whitespace).collect()
});

/// Those that change what is computed.
static CHANGING: LazyLock<BTreeMap<&str, Changing>> = LazyLock::new(|| {
    let rows = rows(include_str!("changing.txt")).filter_map(|row| {
        let mut cells = row.splitn(3, '|').map(str::trim);
        let name = cells.next()?;
        let neutral = cells.next()?.split(" or ");
        let neutral = neutral.filter(|value| !value.is_empty()).collect();
        let how = cells.next()?;
        Some((name, Changing { neutral, how }))
    });
    rows.collect()
});

/// How an argument changes what is computed.
struct Changing {
    /// The values at which it does not.
    neutral: Vec<&'static str>,
    how: &'static str,
}

/// What is known of an argument at its value.
enum Known {
    /// The recipe sees to it, or nothing has to be.
    Harmless,
    /// It changes what is computed, in this way.
    Changing(&'static str),
    /// Nothing.
    Nothing,
}

impl Arguments {
    /// Checks that a checkpoint says all that is required, and nothing that the recipe does not handle.
    ///
    /// # Errors
    /// [`BadInput`] that names all arguments that are missing, or else all that are not handled.
    pub(crate) fn check(&self, checkpoint: &MegatronCheckpoint, architecture: &str) -> Result<()> {
        let args = checkpoint.args();
        let missing = self.missing(checkpoint);
        if !missing.is_empty() {
            let expected = format!("the training arguments that a {architecture} needs");
            let found = format!("no {}", missing.join(", "));
            let given = missing.iter().map(|name| format!("--arg {name}=VALUE"));
            let given = given.collect::<Vec<_>>().join(" ");
            let fault = BadInput::new(args.origin(), expected, found);
            let remedy = format!("convert with what the run had: {given}");
            return Err(fault.remedy(remedy).into());
        }
        let mut found = Vec::new();
        // The options that take a user's word, for each kind.
        let [mut changing, mut unknown] = [Vec::new(), Vec::new()];
        for (name, arg) in args.iter() {
            match self.known(name, arg) {
                Known::Harmless => {}
                Known::Changing(how) => {
                    found.push(format!("{name}={arg} ({how})"));
                    changing.push(format!("--arg {name}=None"));
                }
                Known::Nothing => {
                    found.push(format!("{name}={arg} (unknown to parity)"));
                    unknown.push(format!("--without-effect {name}"));
                }
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        let expected = format!(
            "arguments that the conversion to transformers' {architecture} handles or that are known to be \
             without effect"
        );
        let mut remedies = Vec::new();
        if !changing.is_empty() {
            let options = changing.join(" ");
            remedies.push(format!(
                "where the model was not trained so, convert with {options}"
            ));
        }
        if !unknown.is_empty() {
            let options = unknown.join(" ");
            remedies.push(format!(
                "where you know that it changes nothing, convert with {options}"
            ));
        }
        let fault = BadInput::new(args.origin(), expected, found.join(", "));
        Err(fault.remedy(remedies.join("; ")).into())
    }

    /// What is required and not said.
    fn missing(&self, checkpoint: &MegatronCheckpoint) -> Vec<&'static str> {
        let args = checkpoint.args();
        let lacks = |name: &str| args.get(name).is_none();
        let always = self.required.iter().copied();
        let always = always.filter(|names| names.iter().all(|name| lacks(name)));
        let mut missing: Vec<&str> = always.map(|names| names[0]).collect();
        for (flag, name) in self.required_by {
            let is_set = args.get(flag) == Some(&Arg::Flag(true));
            if is_set && lacks(name) && !missing.contains(name) {
                missing.push(name);
            }
        }
        missing
    }

    /// What to say of what is taken to be off where a checkpoint says nothing at all.
    pub(crate) fn assumed(&self, checkpoint: &MegatronCheckpoint) -> Option<String> {
        let args = checkpoint.args();
        if args.are_saved() {
            return None;
        }
        let off = self.off.iter();
        let off = off.filter(|names| names.iter().all(|name| args.get(name).is_none()));
        let off: Vec<&str> = off.map(|names| names[0]).collect();
        let none = "the checkpoint holds no training arguments";
        if off.is_empty() {
            return Some(none.into());
        }
        let off = off.join(", ");
        Some(format!(
            "{none}: taken to be off, as --arg does not say otherwise: {off}"
        ))
    }

    fn known(&self, name: &str, arg: &Arg) -> Known {
        let own = self.handled.iter().chain(self.without_effect);
        let mut own = own.copied().flatten();
        if arg.is_empty() || own.any(|own| *own == name) || WITHOUT_EFFECT.contains(name) {
            return Known::Harmless;
        }
        match CHANGING.get(name) {
            Some(row) if row.neutral.contains(&arg.to_string().as_str()) => Known::Harmless,
            Some(row) => Known::Changing(row.how),
            None => Known::Nothing,
        }
    }
}

/// The lines of a table.
fn rows(table: &'static str) -> impl Iterator<Item = &'static str> {
    let lines = table.lines();
    lines.filter(|line| !line.starts_with('#') && !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ArchitectureName;
    use clap::ValueEnum;
    use serde_json::{Map, Value, json};

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

    fn of(architecture: ArchitectureName) -> &'static Arguments {
        architecture.architecture().arguments()
    }

    fn is_harmless(architecture: ArchitectureName, name: &str, value: &Value) -> bool {
        matches!(of(architecture).known(name, &arg(value)), Known::Harmless)
    }

    #[test]
    fn a_real_run_has_no_argument_that_is_refused() {
        let all = megatron_lm();
        assert_eq!(all.len(), 846);
        for (name, value) in all {
            assert!(
                is_harmless(ArchitectureName::Llama, &name, &value),
                "{name}={value}"
            );
        }
    }

    /// What other versions of Megatron-LM and of TransformerConfig hold that is not empty, in a run that says
    /// nothing about it.
    #[test]
    fn neither_has_one_of_another_version() {
        let defaults = json!({
            "async_tensor_model_parallel_allreduce": true,
            "delay_grad_reduce": true,
            "encoder_pipeline_model_parallel_size": 0,
            "encoder_tensor_model_parallel_size": 0,
            "fp8_amax_history_len": 1,
            "hybrid_attention_ratio": 0.0,
            "hybrid_mlp_ratio": 0.0,
            "inference_sampling_seed": 42,
            "norm_epsilon": 1e-5,
            "retro_attention_gate": 1,
            "retro_encoder_hidden_dropout": 0.1,
            "retro_encoder_layers": 2,
            "retro_num_neighbors": 2,
            "retro_verify_neighbor_count": true,
            "transformer_impl": "local",
            "use_mcore_models": true,
        });
        for architecture in [ArchitectureName::Llama, ArchitectureName::Gpt2] {
            for (name, value) in defaults.as_object().expect("an object") {
                assert!(
                    is_harmless(architecture, name, value),
                    "{architecture}: {name}={value}"
                );
            }
        }
    }

    /// The arguments that no conversion takes at a value that is new to it, and why: all of them change what a
    /// model computes. None is unknown.
    #[test]
    fn what_changes_the_computation_is_refused() {
        let mut listing = String::new();
        for architecture in ArchitectureName::value_variants() {
            listing += &format!("{architecture}\n");
            for name in megatron_lm().keys() {
                match of(*architecture).known(name, &Arg::Text("something new".into())) {
                    Known::Harmless => {}
                    Known::Changing(how) => listing += &format!("    {name}: {how}\n"),
                    Known::Nothing => panic!("{architecture}: {name}"),
                }
            }
        }
        insta::assert_snapshot!(listing);
    }

    #[test]
    fn names_stand_in_one_list() {
        for (name, row) in CHANGING.iter() {
            assert!(!WITHOUT_EFFECT.contains(name), "{name}");
            assert!(!row.how.is_empty(), "{name}");
        }
        let table = include_str!("changing.txt");
        assert_eq!(CHANGING.len(), rows(table).count());
        for architecture in ArchitectureName::value_variants() {
            let Arguments {
                handled,
                without_effect,
                required,
                required_by,
                off,
            } = of(*architecture);
            let own = handled.iter().chain(*without_effect);
            let mut all: Vec<&str> = own.copied().flatten().copied().collect();
            all.extend(WITHOUT_EFFECT.iter());
            all.sort_unstable();
            let twice = all.windows(2).find(|pair| pair[0] == pair[1]);
            assert_eq!(twice, None, "{architecture}");
            let by = required_by.iter().flat_map(|(flag, name)| [flag, name]);
            let mut asked = required.iter().chain(*off).copied().flatten().chain(by);
            // A recipe may read what is without effect on all others.
            let is_handled = |name: &&str| {
                handled.iter().any(|names| names.contains(name)) || WITHOUT_EFFECT.contains(name)
            };
            assert!(asked.all(is_handled), "{architecture}");
        }
    }

    #[test]
    fn nothing_switches_nothing_on_but_zero_is_a_value() {
        let is_unknown = |arg: Arg| {
            let known = of(ArchitectureName::Llama).known("nobody_has_heard_of_it", &arg);
            matches!(known, Known::Nothing)
        };
        for nothing in [
            Arg::None,
            Arg::Flag(false),
            Arg::Text(String::new()),
            Arg::Other("[]".into()),
        ] {
            assert!(!is_unknown(nothing));
        }
        for value in [
            Arg::Flag(true),
            Arg::Int(0),
            Arg::Float(0.0),
            Arg::Text("no".into()),
        ] {
            assert!(is_unknown(value));
        }
    }

    #[test]
    fn some_are_without_effect_at_one_value() {
        let window = |shown: &str| Arg::Other(shown.into());
        let softmax = |kind: &str| Arg::Text(kind.into());
        for (name, at, elsewhere) in [
            ("softmax_type", softmax("vanilla"), softmax("learnable")),
            ("window_size", window("[-1, -1]"), window("[4, 0]")),
            ("glu_linear_offset", Arg::Float(0.0), Arg::Float(1.0)),
            ("mtp_num_layers", Arg::Int(0), Arg::Int(1)),
        ] {
            let known = |arg| of(ArchitectureName::Llama).known(name, arg);
            assert!(matches!(known(&at), Known::Harmless), "{name}");
            assert!(matches!(known(&elsewhere), Known::Changing(_)), "{name}");
        }
    }
}
