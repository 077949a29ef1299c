//! What a model is, from the `config.json` that lies beside its weights.

use super::BloomConfig;
use crate::error::{BadInput, Error, Result};
use crate::plan::{Arithmetic, Plan, TransformersArithmetic};
use crate::tensor::{DType, MappedFile};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// What a model that can be run says it is.
const RUNNABLE: &str = "an architecture that parity can run, \"bloom\"";
/// Most blocks believed: a plan is built before any weight is looked at.
const MAX_LAYERS: usize = 2_000;
/// Most heads believed; every block has a slope for each.
const MAX_HEADS: usize = 4_096;

/// An architecture and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "architecture", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModelConfig {
    /// BLOOM.
    Bloom(BloomConfig),
}

/// A setting that two configs do not share.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingDifference {
    /// Its name.
    pub setting: String,
    /// The first config's value.
    pub ours: Value,
    /// The other's.
    pub theirs: Value,
}

/// The `config.json` of a transformers folder, as far as it changes what is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvertedConfig {
    /// Architecture and sizes.
    pub model: ModelConfig,
    /// The storage type it names. `None` if it names none; the weights decide then.
    pub dtype: Option<DType>,
    /// How transformers computes it.
    pub arithmetic: TransformersArithmetic,
}

impl ModelConfig {
    /// The plan of this model stored in `dtype`, rounding where `arithmetic`'s framework does.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the tensor-parallel degree does not divide what it has to.
    pub fn plan(&self, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan> {
        match self {
            Self::Bloom(bloom) => bloom.plan(dtype, arithmetic),
        }
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        match self {
            Self::Bloom(bloom) => bloom.n_layer,
        }
    }

    /// Number of tokens the model knows.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bloom(bloom) => bloom.vocab_size,
        }
    }

    /// The prefix that transformers puts before the names of a model under a head.
    pub fn base_prefix(&self) -> &'static str {
        match self {
            Self::Bloom(_) => "transformer.",
        }
    }

    /// Tensors that a checkpoint of this model may hold though no step needs them: a tied head
    /// that was saved all the same.
    pub fn is_redundant(&self, name: &str) -> bool {
        match self {
            Self::Bloom(bloom) => bloom.tie_word_embeddings && name == "lm_head.weight",
        }
    }

    /// Checks that sizes are usable and fit together; `at` names where they come from.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the first value at fault.
    pub fn validate(&self, file: &Path) -> Result<()> {
        let Self::Bloom(bloom) = self;
        let fault = |key: &str, expected: String, found: &dyn std::fmt::Display| -> Result<()> {
            Err(BadInput::new(file, expected, found.to_string())
                .at(key)
                .into())
        };
        for (key, size) in [
            ("hidden_size", bloom.hidden_size),
            ("n_head", bloom.n_head),
            ("vocab_size", bloom.vocab_size),
        ] {
            // Four times a size must still be a size.
            if size == 0 || size > u32::MAX as usize {
                return fault(key, "a size of at least 1 and below 2^32".into(), &size);
            }
        }
        if bloom.n_layer > MAX_LAYERS {
            return fault(
                "n_layer",
                format!("at most {MAX_LAYERS} blocks"),
                &bloom.n_layer,
            );
        }
        if bloom.n_head > MAX_HEADS {
            return fault(
                "n_head",
                format!("at most {MAX_HEADS} heads"),
                &bloom.n_head,
            );
        }
        if bloom.hidden_size % bloom.n_head != 0 {
            let expected = format!("a divisor of hidden_size {}", bloom.hidden_size);
            return fault("n_head", expected, &bloom.n_head);
        }
        if !(bloom.layer_norm_epsilon >= 0.0 && bloom.layer_norm_epsilon.is_finite()) {
            let epsilon = bloom.layer_norm_epsilon;
            return fault(
                "layer_norm_epsilon",
                "a number not below 0".into(),
                &epsilon,
            );
        }
        Ok(())
    }

    /// The settings that differ from another config's.
    pub fn differences(&self, other: &Self) -> Vec<SettingDifference> {
        let (ours, theirs) = (self.settings(), other.settings());
        let keys = ours.keys().filter(|key| ours.get(*key) != theirs.get(*key));
        keys.map(|key| SettingDifference {
            setting: key.clone(),
            ours: ours[key].clone(),
            theirs: theirs.get(key).cloned().unwrap_or_default(),
        })
        .collect()
    }

    /// Whether both have the same stages with the same shapes, whatever their constants are.
    pub fn same_structure(&self, other: &Self) -> bool {
        let Self::Bloom(a) = self;
        let Self::Bloom(b) = other;
        let sizes = |c: &BloomConfig| (c.hidden_size, c.n_layer, c.n_head, c.vocab_size);
        sizes(a) == sizes(b)
    }

    fn settings(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(settings)) => settings,
            _ => Map::new(),
        }
    }
}

impl ConvertedConfig {
    /// Reads the `config.json` of a transformers folder. Absent settings have transformers'
    /// defaults; settings that do not change the computation are passed over.
    ///
    /// # Errors
    /// If the file is no JSON object, the architecture is unknown, or a setting is missing,
    /// wrongly typed, out of range or not supported.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_settings(path, Self::settings(path)?)
    }

    /// All settings in a `config.json`.
    ///
    /// # Errors
    /// If the file is missing or no JSON object.
    pub fn settings(path: &Path) -> Result<Map<String, Value>> {
        let file = MappedFile::open(path)?;
        serde_json::from_slice(&file)
            .map_err(|e| BadInput::new(path, "a JSON object of settings", e.to_string()).into())
    }

    /// The configuration that settings describe, as [`Self::read`] has it; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_settings(path: &Path, settings: Map<String, Value>) -> Result<Self> {
        let settings = Settings { path, settings };
        let model = match settings.text("model_type")?.as_deref() {
            Some("bloom") => ModelConfig::Bloom(settings.bloom()?),
            Some(other) => {
                return Err(settings.fault("model_type", RUNNABLE, format!("{other:?}")));
            }
            None => return Err(settings.fault("model_type", RUNNABLE, "nothing".into())),
        };
        model.validate(path)?;
        let dtype = match settings.text("dtype")? {
            Some(name) => Some(name),
            // Before transformers 4.56.
            None => settings.text("torch_dtype")?,
        };
        let dtype = dtype
            .map(|name| {
                let known = name.trim_start_matches("torch.").parse::<DType>();
                known
                    .ok()
                    .filter(|dtype| dtype.is_runnable())
                    .ok_or_else(|| {
                        settings.fault("dtype", "float32, float16 or bfloat16", format!("{name:?}"))
                    })
            })
            .transpose()?;
        let arithmetic = settings.arithmetic(&model)?;
        Ok(Self {
            model,
            dtype,
            arithmetic,
        })
    }
}

/// Typed access to settings with errors that name the key.
struct Settings<'a> {
    path: &'a Path,
    settings: Map<String, Value>,
}

impl Settings<'_> {
    fn bloom(&self) -> Result<BloomConfig> {
        Ok(BloomConfig {
            // transformers' names, with the older ones that its BloomConfig maps to them.
            hidden_size: self.size(&["n_embed", "hidden_size"], Some(64))?,
            n_layer: self.size(&["n_layer", "num_hidden_layers"], Some(2))?,
            n_head: self.size(&["n_head", "num_attention_heads"], Some(8))?,
            vocab_size: self.size(&["vocab_size"], Some(250_880))?,
            layer_norm_epsilon: self.number("layer_norm_epsilon", 1e-5)?,
            apply_residual_connection_post_layernorm: self
                .flag("apply_residual_connection_post_layernorm", false)?,
            tie_word_embeddings: self.flag("tie_word_embeddings", true)?,
        })
    }

    /// `modeling_bloom.py` takes `slow_but_exact` into account where `pretraining_tp` is above 1.
    fn arithmetic(&self, model: &ModelConfig) -> Result<TransformersArithmetic> {
        let ModelConfig::Bloom(bloom) = model;
        let ranks = self.size(&["pretraining_tp"], Some(1))?;
        let slices = match self.flag("slow_but_exact", false)? && ranks > 1 {
            true => Some(ranks),
            false => None,
        };
        if slices.is_some() && bloom.hidden_size % ranks != 0 {
            let expected = format!("a divisor of hidden_size {}", bloom.hidden_size);
            return Err(self.fault("pretraining_tp", &expected, ranks.to_string()));
        }
        Ok(TransformersArithmetic {
            slow_but_exact: slices,
            ..TransformersArithmetic::default()
        })
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.settings.get(key).filter(|value| !value.is_null())
    }

    fn fault(&self, key: &str, expected: &str, found: String) -> Error {
        BadInput::new(self.path, expected, found).at(key).into()
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        self.get(key)
            .map(|value| match value.as_str() {
                Some(text) => Ok(text.to_owned()),
                None => Err(self.fault(key, "text", value.to_string())),
            })
            .transpose()
    }

    fn size(&self, keys: &[&str], default: Option<usize>) -> Result<usize> {
        let given = keys.iter().find_map(|key| Some((*key, self.get(key)?)));
        match (given, default) {
            (Some((key, value)), _) => value
                .as_u64()
                .and_then(|size| usize::try_from(size).ok())
                .ok_or_else(|| self.fault(key, "a whole number", value.to_string())),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.fault(keys[0], "a whole number", "nothing".into())),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.get(key).map_or(Ok(default), |value| {
            value
                .as_f64()
                .ok_or_else(|| self.fault(key, "a number", value.to_string()))
        })
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |value| {
            value
                .as_bool()
                .ok_or_else(|| self.fault(key, "true or false", value.to_string()))
        })
    }
}
