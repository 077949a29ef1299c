//! What a model is, from the settings that lie beside its weights.

use super::{
    ArchitectureName, Checks, Framework, Heads, Hooked, ModelConfig, Read, Role, Runnable,
    Settings, alternatives, stage,
};
use crate::error::{BadInput, Result};
use crate::plan::{Arithmetic, MegatronArithmetic, Plan, StageId, TransformersArithmetic};
use crate::tensor::{DType, MappedFile};
use serde_json::{Map, Value};
use std::path::Path;

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

/// Largest config believed; real ones are below 100 kB.
const MAX_BYTES: usize = 16 << 20;

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
    /// None for a config that has been validated.
    pub fn plan(&self, dtype: DType, arithmetic: &Arithmetic) -> Result<Plan> {
        self.model().plan(dtype, arithmetic)
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.model().layers()
    }

    /// Number of tokens the model knows.
    pub fn vocab_size(&self) -> usize {
        self.model().vocab_size()
    }

    /// The prefix that transformers puts before the names of a model under a head.
    pub fn base_prefix(&self) -> &'static str {
        self.architecture().architecture().prefix()
    }

    /// Whether a checkpoint of this model may hold a tensor though no step needs it: a tied head that
    /// was saved all the same.
    pub fn is_redundant(&self, tensor: &str) -> bool {
        self.model().is_redundant(tensor)
    }

    /// The embedding that is the head's weight, too; `None` if the head has one of its own.
    pub fn tied_embedding(&self) -> Option<&'static str> {
        self.model().tied_embedding()
    }

    /// The same model with a head of its own.
    #[must_use]
    pub fn untied(&self) -> Self {
        let mut model = self.clone();
        model.model_mut().untie();
        model
    }

    /// The same model of a vocabulary of this many tokens.
    #[must_use]
    pub fn with_vocab_size(&self, rows: usize) -> Self {
        let mut model = self.clone();
        model.set_vocab_size(rows);
        model
    }

    /// Whether transformers keeps a tensor in the type that it is stored in, whatever type the model is loaded in.
    pub fn keeps_type(&self, tensor: &str) -> bool {
        self.model().keeps_type(tensor)
    }

    /// Whether transformers stores a matrix as `[in, out]`, where plans have `[out, in]`.
    pub fn is_transposed(&self, tensor: &str) -> bool {
        self.model().is_transposed(tensor)
    }

    /// What a stage is for; `None` if the architecture has no such stage.
    pub fn role(&self, stage: &StageId) -> Option<Role> {
        stage::named(self.stages(), stage).map(|row| row.role)
    }

    /// Takes another number of tokens.
    pub(crate) fn set_vocab_size(&mut self, rows: usize) {
        self.model_mut().set_vocab_size(rows);
    }

    /// How many experts a block has that has any; 0 of a model without.
    pub(crate) fn experts(&self) -> usize {
        self.model().experts()[0]
    }

    /// How many of them are chosen for a token; `None` of a model without.
    pub(crate) fn chosen_experts(&self) -> Option<usize> {
        Some(self.model().experts()[1]).filter(|chosen| *chosen > 0)
    }

    /// How its attention is divided into heads.
    pub(crate) fn heads(&self) -> Heads {
        self.model().heads()
    }

    /// The stages whose values a framework's hook of this name shows.
    pub(crate) fn hooked(&self, framework: Framework, name: &str) -> Vec<Hooked> {
        stage::hooked(self.stages(), framework, name)
    }

    fn stages(&self) -> stage::Table {
        let runnable = self.architecture().architecture().runnable();
        runnable.map_or(&[], |runnable| runnable.stages)
    }

    /// The model and the arithmetic of a Megatron's dump, from its settings.
    ///
    /// # Errors
    /// If a setting is missing or wrongly typed, or they are of no architecture that can be run.
    pub(crate) fn of_dump(
        framework: Framework,
        settings: &Settings<'_>,
    ) -> Result<Read<MegatronArithmetic>> {
        for (_, runnable) in runnable() {
            if let Some(found) = (runnable.of_dump)(framework, settings)? {
                return Ok(found);
            }
        }
        let expected = format!("settings of {}", alternatives(names()));
        Err(BadInput::new(settings.path(), expected, "none of these").into())
    }

    /// Checks that sizes are usable and fit together; `file` is where they come from.
    ///
    /// # Errors
    /// [`BadInput`] naming the first value at fault.
    pub fn validate(&self, file: &Path) -> Result<()> {
        self.model().check(&Checks::new(file))
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
        self.architecture() == other.architecture()
            && self.model().structure() == other.model().structure()
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
        if file.len() > MAX_BYTES {
            let expected = format!("a config of at most {MAX_BYTES} bytes");
            return Err(BadInput::new(path, expected, file.len().to_string()).into());
        }
        serde_json::from_slice(&file)
            .map_err(|e| BadInput::new(path, "a JSON object of settings", e.to_string()).into())
    }

    /// The configuration that settings describe, as [`Self::read`] has it; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_settings(path: &Path, settings: Map<String, Value>) -> Result<Self> {
        let settings = Settings::new(path, settings);
        let model_type = settings.text(&["model_type"])?;
        let named = |(name, _): &(ArchitectureName, Runnable)| {
            model_type.as_deref() == Some(name.architecture().model_type())
        };
        let Some((_, runnable)) = runnable().find(named) else {
            let types =
                runnable().map(|(name, _)| format!("{:?}", name.architecture().model_type()));
            let expected = format!(
                "an architecture that parity can run, {}",
                alternatives(types)
            );
            let found = model_type.map_or("nothing".to_owned(), |other| format!("{other:?}"));
            return Err(settings.fault("model_type", &expected, found));
        };
        let (model, arithmetic) = (runnable.of_transformers)(&settings)?;
        model.validate(path)?;
        // The second is the name before transformers 4.56.
        let dtype = settings.text(&["dtype", "torch_dtype"])?;
        let dtype = dtype
            .map(|name| {
                let known = name.trim_start_matches("torch.").parse::<DType>();
                known
                    .ok()
                    .filter(|dtype| dtype.is_runnable())
                    .ok_or_else(|| {
                        let found = format!("{name:?}");
                        settings.fault("dtype", "float32, float16 or bfloat16", found)
                    })
            })
            .transpose()?;
        Ok(Self {
            model,
            dtype,
            arithmetic,
        })
    }
}

/// The architectures whose models can be run.
fn runnable() -> impl Iterator<Item = (ArchitectureName, Runnable)> {
    ArchitectureName::all().filter_map(|name| Some((name, name.architecture().runnable()?)))
}

fn names() -> impl Iterator<Item = String> {
    runnable().map(|(name, _)| name.to_string())
}
