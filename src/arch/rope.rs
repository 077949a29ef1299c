//! Rotary frequencies, as configs describe them.

use super::Settings;
use crate::error::Result;
use crate::op::{Frequencies, RopeScaling};

/// Parameters of Llama 3's scaling that Megatron has no arguments for
/// (`RotaryEmbedding._apply_scaling`'s defaults).
pub(super) const LOW_FREQ_FACTOR: f64 = 1.0;
pub(super) const HIGH_FREQ_FACTOR: f64 = 4.0;
/// What divides positions, under Megatron-LM's name and GPTModel's.
pub(super) const INTERPOLATION: [&str; 2] = [
    "rotary_seq_len_interpolation_factor",
    "seq_len_interpolation_factor",
];
/// Whether frequencies are scaled as Llama 3's, under the same two's names.
pub(super) const ROPE_SCALING: [&str; 2] = ["use_rope_scaling", "rope_scaling"];
pub(super) const ORIGINAL_POSITIONS: usize = 8192;

/// Reads what transformers calls `rope_parameters`, before version 5 `rope_theta` and `rope_scaling`,
/// for heads of `dims` entries. `positions` is the config's `max_position_embeddings`, `base` the class's default.
pub(super) fn of_transformers(
    settings: &Settings<'_>,
    dims: usize,
    positions: usize,
    base: f64,
) -> Result<Frequencies> {
    // transformers takes the older name first, if there is something in it.
    let older = settings.within("rope_scaling")?;
    let older = older.filter(|older| !older.is_empty());
    let newer = settings.within("rope_parameters")?;
    if let (Some(older), Some(newer)) = (&older, &newer) {
        newer.agrees_with(older)?;
    }
    let parameters = older.or(newer).unwrap_or_else(|| settings.empty());
    parameters.agrees_with(settings)?;
    let base = settings.number_or(&["rope_theta"], base)?;
    let partial = settings.number_or(&["partial_rotary_factor"], 1.0)?;
    let partial = parameters.number_or(&["partial_rotary_factor"], partial)?;
    if partial != 1.0 {
        let expected = "1: transformers' model rotates heads as a whole";
        return Err(parameters.fault("partial_rotary_factor", expected, partial));
    }
    Ok(Frequencies {
        theta: parameters.number_or(&["rope_theta"], base)?,
        dims,
        scaling: scaling(settings, &parameters, positions)?,
    })
}

/// By what transformers multiplies the scores of scaled positions, twice: YaRN's factor for `mscale_all_dim`.
pub(super) fn mscale_of_transformers(settings: &Settings<'_>) -> Result<f64> {
    let older = settings.within("rope_scaling")?;
    let parameters = match older.filter(|older| !older.is_empty()) {
        Some(older) => Some(older),
        None => settings.within("rope_parameters")?,
    };
    let Some(parameters) = parameters else {
        return Ok(1.0);
    };
    match parameters.optional_number(&["mscale_all_dim"])? {
        Some(all) if all != 0.0 => Ok(RopeScaling::yarn_mscale(
            parameters.number(&["factor"])?,
            all,
        )),
        _ => Ok(1.0),
    }
}

fn scaling(
    settings: &Settings<'_>,
    parameters: &Settings<'_>,
    positions: usize,
) -> Result<RopeScaling> {
    let original = || -> Result<usize> {
        // A config's own comes before that of the parameters.
        let key = ["original_max_position_embeddings"];
        match settings.optional_size(&key)? {
            Some(original) => Ok(original),
            None => parameters.size_or(&key, positions),
        }
    };
    let factor = || parameters.number(&["factor"]);
    let kind = parameters.text(&["rope_type", "type"])?;
    Ok(match kind.as_deref() {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: factor()? },
        Some("dynamic") => RopeScaling::Dynamic {
            factor: factor()?,
            positions,
        },
        Some("llama3") => RopeScaling::Llama3 {
            factor: factor()?,
            low: parameters.number(&["low_freq_factor"])?,
            high: parameters.number(&["high_freq_factor"])?,
            positions: original()?,
        },
        Some("yarn") => yarn(parameters, original()?, positions)?,
        Some(other) => {
            let expected = "default, linear, dynamic, llama3 or yarn";
            return Err(parameters.fault("rope_type", expected, format!("{other:?}")));
        }
    })
}

fn yarn(parameters: &Settings<'_>, original: usize, positions: usize) -> Result<RopeScaling> {
    // Without one it is how much longer sequences may be.
    let factor = match parameters.optional_number(&["factor"])? {
        Some(factor) => factor,
        None => positions as f64 / original as f64,
    };
    // 0 is as good as nothing to transformers.
    let or = |key, default| -> Result<f64> {
        let given = parameters.optional_number(&[key])?;
        Ok(given.filter(|given| *given != 0.0).unwrap_or(default))
    };
    let mscale = parameters.optional_number(&["mscale"])?;
    let mscale_all_dim = parameters.optional_number(&["mscale_all_dim"])?;
    let attention = match parameters.optional_number(&["attention_factor"])? {
        Some(attention) => attention,
        None => RopeScaling::yarn_attention(factor, mscale, mscale_all_dim),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: or("beta_fast", 32.0)?,
        beta_slow: or("beta_slow", 1.0)?,
        positions: original,
        truncate: parameters.flag_or(&["truncate"], true)?,
        attention,
    })
}

/// Reads megatron-core's arguments, for heads of `dims` entries.
pub(super) fn of_megatron_core(settings: &Settings<'_>, dims: usize) -> Result<Frequencies> {
    let percent = settings.number_or(&["rotary_percent"], 1.0)?;
    if percent != 1.0 {
        let expected = "1: parity's model rotates heads as a whole";
        return Err(settings.fault("rotary_percent", expected, percent));
    }
    for name in INTERPOLATION {
        settings.refuse(name)?;
    }
    let scaled = settings.flag_or(&ROPE_SCALING, false)?;
    let scaling = if settings.flag_or(&["multi_latent_attention"], false)? {
        of_latent(settings)?
    } else if scaled {
        RopeScaling::Llama3 {
            factor: settings.number_or(&["rope_scaling_factor"], 8.0)?,
            low: LOW_FREQ_FACTOR,
            high: HIGH_FREQ_FACTOR,
            positions: ORIGINAL_POSITIONS,
        }
    } else {
        RopeScaling::None
    };
    Ok(Frequencies {
        theta: settings.number_or(&["rotary_base"], 10_000.0)?,
        dims,
        scaling,
    })
}

/// The scaling of latent attention, with the defaults of `MLATransformerConfig`: YaRN's.
fn of_latent(settings: &Settings<'_>) -> Result<RopeScaling> {
    let kind = settings.text(&["rope_type"])?;
    match kind.as_deref() {
        Some("rope") => return Ok(RopeScaling::None),
        None | Some("yarn") => {}
        Some(other) => {
            return Err(settings.fault("rope_type", "rope or yarn", format!("{other:?}")));
        }
    }
    let number = |key, default| settings.number_or(&[key], default);
    let factor = number("rotary_scaling_factor", 40.0)?;
    let [mscale, all] = [number("mscale", 1.0)?, number("mscale_all_dim", 0.0)?];
    let attention =
        RopeScaling::yarn_mscale(factor, mscale) / RopeScaling::yarn_mscale(factor, all);
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: number("beta_fast", 32.0)?,
        beta_slow: number("beta_slow", 1.0)?,
        positions: settings.size_or(&["original_max_position_embeddings"], 4096)?,
        truncate: true,
        attention,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::recipe::object;
    use serde_json::{Value, json};
    use std::path::Path;

    fn read(settings: Value) -> Result<Frequencies> {
        let settings = Settings::new(Path::new("config.json"), object(settings));
        of_transformers(&settings, 64, 4096, 1e4)
    }

    #[test]
    fn generations_of_names_have_to_agree() {
        for settings in [
            json!({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
            json!({
                "rope_scaling": {"rope_type": "linear", "factor": 4.0},
                "rope_parameters": {"rope_type": "linear", "factor": 8.0},
            }),
        ] {
            let error = read(settings).unwrap_err().to_string();
            assert!(error.contains("rope_parameters"), "{error}");
            assert!(error.contains("two names of one setting"), "{error}");
        }
    }

    #[test]
    fn both_generations_of_names_are_read() {
        let linear = RopeScaling::Linear { factor: 4.0 };
        for settings in [
            json!({"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4}}),
            json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}}),
            // Both, as conversions write them.
            json!({
                "rope_theta": 1e6,
                "rope_scaling": {"rope_type": "linear", "factor": 4.0},
                "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
            }),
        ] {
            let found = read(settings).unwrap();
            assert_eq!((found.theta, found.scaling, found.dims), (1e6, linear, 64));
        }
        let plain = read(json!({"rope_scaling": null})).unwrap();
        assert_eq!((plain.theta, plain.scaling), (1e4, RopeScaling::None));
    }

    #[test]
    fn what_is_left_out_is_as_in_transformers() {
        let yarn = json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}});
        let RopeScaling::Yarn {
            beta_fast,
            beta_slow,
            positions,
            truncate,
            attention,
            ..
        } = read(yarn).unwrap().scaling
        else {
            panic!("YaRN");
        };
        assert_eq!((beta_fast, beta_slow, positions), (32.0, 1.0, 4096));
        assert!(truncate);
        assert_eq!(attention, 0.1 * libm::log(4.0) + 1.0);
        let dynamic = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
        let expected = RopeScaling::Dynamic {
            factor: 2.0,
            positions: 4096,
        };
        assert_eq!(read(dynamic).unwrap().scaling, expected);
    }

    #[test]
    fn what_is_not_known_is_named() {
        let refused = |settings, words: &str| {
            let error = read(settings).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        let longrope = json!({"rope_parameters": {"rope_type": "longrope"}});
        refused(longrope, "rope_parameters.rope_type");
        let missing = json!({"rope_scaling": {"type": "linear"}});
        refused(missing, "rope_scaling.factor");
        let partial = json!({"rope_parameters": {"partial_rotary_factor": 0.5}});
        refused(partial, "rope_parameters.partial_rotary_factor");
    }
}
