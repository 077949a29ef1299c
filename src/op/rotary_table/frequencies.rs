//! Frequencies of rotary position embeddings (Su et al. 2021, "RoFormer") and their scalings for longer
//! sequences.
//!
//! Frameworks compute them in fp32, operation by operation, and so does [`Frequencies::of`], in the
//! order of transformers' `modeling_rope_utils.py`; powers are evaluated in fp64 and rounded, which is
//! torch's `pow` but for one frequency in a hundred, an ulp away.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::fmt;

/// By which angles positions rotate pairs of a head's entries: pair `i` of `dims / 2` at position `p` by
/// `p · theta^(−2i / dims)`, unless a scaling changes that.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frequencies {
    /// Base of the powers.
    pub theta: f64,
    /// How many of a head's entries are rotated; even.
    pub dims: usize,
    /// What is done to the frequencies for longer sequences.
    #[serde(default, skip_serializing_if = "RopeScaling::is_none")]
    pub scaling: RopeScaling,
}

/// How frequencies are changed for sequences longer than the model was trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All are divided by a factor: positions are interpolated.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the sequence once that is longer than `positions` ("dynamic NTK").
    Dynamic {
        /// How strongly it grows.
        factor: f64,
        /// The longest sequence of the unscaled model.
        positions: usize,
    },
    /// Llama 3's: low frequencies are divided, high ones kept, those between blended.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths above `positions / low` are divided.
        low: f64,
        /// Wavelengths below `positions / high` are kept.
        high: f64,
        /// The longest sequence of the unscaled model.
        positions: usize,
    },
    /// YaRN (Peng et al. 2023): a ramp over the pairs from kept to divided; cosines and sines are
    /// multiplied by `attention`.
    Yarn {
        /// The divisor.
        factor: f64,
        /// Where the ramp begins, in rotations over `positions`.
        beta_fast: f64,
        /// Where it ends.
        beta_slow: f64,
        /// The longest sequence of the unscaled model.
        positions: usize,
        /// Whether the ends of the ramp are whole pairs.
        truncate: bool,
        /// Factor of cosines and sines.
        attention: f64,
    },
}

impl RopeScaling {
    /// Whether nothing is scaled.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f32 {
        match self {
            Self::Yarn { attention, .. } => *attention as f32,
            Self::None | Self::Linear { .. } | Self::Dynamic { .. } | Self::Llama3 { .. } => 1.0,
        }
    }

    /// YaRN's factor for a `mscale`: `0.1·mscale·ln(factor) + 1`, or 1 where nothing is scaled up.
    pub fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * mscale * libm::log(factor) + 1.0
        }
    }

    /// YaRN's factor of cosines and sines where a config does not name it: `0.1·ln(factor) + 1`, or the
    /// quotient of two of these with the logarithms multiplied by `mscale` and `mscale_all_dim`.
    pub fn yarn_attention(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
        let of = |mscale| Self::yarn_mscale(factor, mscale);
        let given = |mscale: Option<f64>| mscale.filter(|mscale| *mscale != 0.0);
        match (given(mscale), given(mscale_all_dim)) {
            (Some(mscale), Some(all)) => of(mscale) / of(all),
            _ => of(1.0),
        }
    }
}

impl Frequencies {
    /// The frequency of every pair for a sequence of this many positions.
    pub fn of(&self, sequence: usize) -> Vec<f32> {
        let powers = self.powers(self.theta as f32);
        let plain = || powers.iter().map(|power| 1.0 / power);
        match self.scaling {
            RopeScaling::None => plain().collect(),
            RopeScaling::Linear { factor } => plain().map(|x| x / factor as f32).collect(),
            RopeScaling::Dynamic { factor, positions } => {
                if sequence <= positions {
                    return plain().collect();
                }
                let base = self.grown(factor, sequence, positions);
                let powers = self.powers(base).into_iter();
                powers.map(|power| 1.0 / power).collect()
            }
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                positions,
            } => {
                let positions = positions as f64;
                let [longest, shortest] = [positions / low, positions / high].map(|x| x as f32);
                let blended = |x: f32| {
                    let wavelength = (2.0 * PI) as f32 / x;
                    if wavelength > longest {
                        return x / factor as f32;
                    }
                    if wavelength < shortest {
                        return x;
                    }
                    let smooth = (positions as f32 / wavelength - low as f32) / (high - low) as f32;
                    (1.0 - smooth) * x / factor as f32 + smooth * x
                };
                plain().map(blended).collect()
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                positions,
                truncate,
                ..
            } => {
                let [low, high] = self.ramp([beta_fast, beta_slow], positions, truncate);
                let blended = powers.iter().enumerate().map(|(pair, power)| {
                    let kept = 1.0 / power;
                    let divided = 1.0 / (factor as f32 * power);
                    let ramp = (pair as f32 - low as f32) / (high - low) as f32;
                    let keep = 1.0 - ramp.clamp(0.0, 1.0);
                    divided * (1.0 - keep) + kept * keep
                });
                blended.collect()
            }
        }
    }

    /// How far a frequency may be off, relative to itself, in unit roundoffs: two ulps, of a power and
    /// of the base of a dynamic scaling, and the roundings of quotients, differences and sums.
    pub const ERROR: f64 = 8.0;

    fn powers(&self, base: f32) -> Vec<f32> {
        let power = |pair: usize| {
            let exponent = (2 * pair) as f32 / self.dims.max(1) as f32;
            libm::pow(base.into(), exponent.into()) as f32
        };
        (0..self.dims / 2).map(power).collect()
    }

    /// The base for a longer sequence.
    fn grown(&self, factor: f64, sequence: usize, positions: usize) -> f32 {
        let dims = self.dims as f64;
        let stretch = factor as f32 * sequence as f32 / positions as f32 - (factor - 1.0) as f32;
        // torch does not round an exponent that is a number of Python's.
        let growth = libm::pow(stretch.into(), dims / (dims - 2.0)) as f32;
        self.theta as f32 * growth
    }

    /// The pairs between which YaRN's ramp runs.
    fn ramp(&self, rotations: [f64; 2], positions: usize, truncate: bool) -> [f64; 2] {
        let dims = self.dims as f64;
        let [mut low, mut high] = rotations.map(|rotations| {
            let turns = positions as f64 / (rotations * 2.0 * PI);
            dims * libm::log(turns) / (2.0 * libm::log(self.theta))
        });
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dims - 1.0));
        if low == high {
            // Nothing to divide by otherwise.
            high += 0.001;
        }
        [low, high]
    }
}

impl fmt::Display for Frequencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "theta {:e}", self.theta)?;
        if self.scaling.is_none() {
            return Ok(());
        }
        write!(f, ", {} scaling", self.scaling)
    }
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = match self {
            Self::None => return f.write_str("none"),
            Self::Linear { factor } => ("linear", factor),
            Self::Dynamic { factor, .. } => ("dynamic", factor),
            Self::Llama3 {
                factor,
                low,
                high,
                positions,
            } => {
                let what = format!("factor {factor}, {low} to {high} of {positions} positions");
                return write!(f, "llama3 ({what})");
            }
            Self::Yarn { factor, .. } => ("YaRN", factor),
        };
        write!(f, "{name} (factor {factor})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What transformers' functions give (scripts/make_rotary_fixtures.py).
    const FIXTURE: &str = include_str!("../../../tests/fixtures/rotary.json");

    fn scaling(case: &Value) -> RopeScaling {
        let settings = &case["rope_parameters"];
        let number = |key: &str| settings[key].as_f64();
        let positions = number("original_max_position_embeddings").unwrap_or(0.0) as usize;
        let factor = number("factor").unwrap_or(1.0);
        match settings["rope_type"].as_str().unwrap() {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor },
            "dynamic" => RopeScaling::Dynamic {
                factor,
                positions: case["max_position_embeddings"].as_u64().unwrap() as usize,
            },
            "llama3" => RopeScaling::Llama3 {
                factor,
                low: number("low_freq_factor").unwrap(),
                high: number("high_freq_factor").unwrap(),
                positions,
            },
            "yarn" => RopeScaling::Yarn {
                factor,
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
                positions,
                truncate: settings["truncate"].as_bool().unwrap_or(true),
                attention: number("attention_factor").unwrap_or_else(|| {
                    RopeScaling::yarn_attention(factor, number("mscale"), number("mscale_all_dim"))
                }),
            },
            other => panic!("{other}"),
        }
    }

    #[test]
    fn frequencies_are_those_of_transformers() {
        let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
        let (mut equal, mut all) = (0, 0);
        for case in fixture["cases"].as_array().unwrap() {
            let frequencies = Frequencies {
                theta: case["rope_theta"].as_f64().unwrap(),
                dims: case["head_dim"].as_u64().unwrap() as usize,
                scaling: scaling(case),
            };
            let expected = case["inv_freq_bits"].as_array().unwrap().iter();
            let expected: Vec<f32> = expected
                .map(|bits| f32::from_bits(bits.as_u64().unwrap() as u32))
                .collect();
            let found = frequencies.of(case["sequence"].as_u64().unwrap() as usize);
            assert_eq!(found.len(), expected.len());
            for (a, b) in expected.iter().zip(&found) {
                let unit = f64::from(f32::EPSILON) / 2.0;
                let error = f64::from((a - b).abs());
                assert!(
                    error <= Frequencies::ERROR * unit * f64::from(*a),
                    "{case}: {b} for {a}"
                );
            }
            all += found.len();
            equal += expected.iter().zip(&found).filter(|(a, b)| a == b).count();
            let attention = case["attention_factor"].as_f64().unwrap();
            assert_eq!(frequencies.scaling.attention_factor(), attention as f32);
        }
        println!("{equal} of {all} to the bit");
        assert!(100 * equal >= 97 * all, "{equal} of {all}");
    }
}
