//! The model that is run: a transformers folder, or a Megatron checkpoint as it would be converted.

use crate::arch::{ModelConfig, Role};
use crate::case::{ArithmeticName, Case};
use crate::checkpoint::megatron::MegatronCheckpoint;
use crate::checkpoint::{Adapted, Overlay, TransformersFolder, Weights};
use crate::compare::{Spec, compare};
use crate::convert::Converted;
use crate::error::{BadInput, Result, listed};
use crate::explain::{Injected, StepEdit};
use crate::plan::{Arithmetic, MegatronArithmetic, Plan, TransformersArithmetic};
use crate::tensor::DType;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The head's weight, where it is one of its own.
const HEAD: &str = "lm_head.weight";

/// A model with its weights, and how it was meant to be run.
pub struct Candidate {
    folder: PathBuf,
    /// Where its settings come from, for messages.
    settings: PathBuf,
    /// Its settings.
    pub model: ModelConfig,
    /// Type of its weights.
    pub dtype: DType,
    /// Its weights.
    pub weights: Box<dyn Weights>,
    /// How its steps differ from those of its architecture.
    pub rewriting: Option<StepEdit>,
    /// What a reader should know.
    pub(super) notes: Vec<String>,
    transformers: TransformersArithmetic,
    /// Of a model in Megatron's shards.
    megatron: Option<MegatronArithmetic>,
}

impl Candidate {
    /// Opens a folder of either kind; weights are of the type that its settings name.
    ///
    /// # Errors
    /// If it holds neither, or not all of a model.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, None)
    }

    /// As [`Self::open`], with weights rounded to a type as they are loaded, as
    /// `from_pretrained(dtype=…)` does.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(path: &Path, dtype: Option<DType>) -> Result<Self> {
        if MegatronCheckpoint::recognises(path) {
            if TransformersFolder::has_weights(path) {
                let expected = "a transformers model or Megatron's shards";
                let fault = BadInput::new(path, expected, "both: a model's weights and shards");
                let remedy = "name a folder that holds the one that is meant";
                return Err(fault.remedy(remedy).into());
            }
            Self::from_megatron(path, dtype)
        } else {
            Self::from_transformers(path, dtype)
        }
    }

    fn from_transformers(path: &Path, dtype: Option<DType>) -> Result<Self> {
        let folder = TransformersFolder::open(path)?;
        let config = folder.config().clone();
        let notes = folder.notes().to_vec();
        Self {
            folder: path.to_owned(),
            settings: path.join("config.json"),
            model: config.model,
            dtype: folder.dtype(),
            transformers: config.arithmetic,
            megatron: None,
            weights: folder.into_weights(),
            rewriting: None,
            notes,
        }
        .adapted(dtype)
    }

    fn from_megatron(path: &Path, dtype: Option<DType>) -> Result<Self> {
        let converted = Converted::new(MegatronCheckpoint::open(path, &[])?, None, None)?;
        let config = converted.config()?;
        Self {
            folder: path.to_owned(),
            settings: converted.checkpoint().args().origin().to_owned(),
            model: config.model,
            dtype: converted.dtype(),
            transformers: config.arithmetic,
            megatron: converted.arithmetic()?,
            notes: converted.notes().to_vec(),
            weights: Box::new(converted),
            rewriting: None,
        }
        .adapted(dtype)
    }

    /// A head that is there although the embedding is to be used for it: one that differs is run, as
    /// transformers runs it.
    fn with_its_head(mut self) -> Result<Self> {
        let Some(embedding) = self.model.tied_embedding() else {
            return Ok(self);
        };
        if self.weights.stored(HEAD).is_none() || self.weights.stored(embedding).is_none() {
            return Ok(self);
        }
        let [head, tied] = [HEAD, embedding].map(|name| self.weights.load(name));
        let (head, tied) = (head?, tied?);
        if head.bits_equal(&tied) {
            self.notes.push(format!(
                "{HEAD} is there beside {embedding}, which it is tied to, and equal"
            ));
            return Ok(self);
        }
        let differing = if head.shape() == tied.shape() {
            let metrics = compare(&tied, &head, &Spec::default())?;
            format!(
                "in {} of {} elements, by {:.1e} at most",
                metrics.unequal,
                metrics.elements,
                metrics.max_abs_difference()
            )
        } else {
            format!("in shape, {:?} and {:?}", head.shape(), tied.shape())
        };
        self.notes.push(format!(
            "{} ties {HEAD} to {embedding}, but they differ {differing}: run as a head of its own, as \
             transformers 5 runs it",
            self.settings_name()
        ));
        self.model = self.model.untied();
        Ok(self)
    }

    /// Its weights as plans want them, its vocabulary as large as its embedding.
    fn adapted(mut self, asked: Option<DType>) -> Result<Self> {
        self = self.cast(asked).with_its_head()?;
        let names = self.weights.names().into_iter();
        let transposed = names.filter(|name| self.model.is_transposed(name));
        let transposed: BTreeSet<String> = transposed.map(str::to_owned).collect();
        if !transposed.is_empty() {
            self.weights = Box::new(Adapted::new(self.weights).transposed(transposed));
        }
        let of_vocabulary = self.of_vocabulary()?;
        let mut stored = of_vocabulary.iter().map(|name| self.weights.stored(name));
        let rows = stored
            .next()
            .flatten()
            .and_then(|stored| stored.shape.first().copied());
        let said = self.model.vocab_size();
        if let Some(rows) = rows.filter(|rows| *rows != said && *rows > 0) {
            self.notes.push(format!(
                "{} says a vocabulary of {said}, the embedding has {rows} rows",
                self.settings_name()
            ));
            self.model = self.model.with_vocab_size(rows);
        }
        let left_out = self.left_out()?;
        self.notes.extend(left_out);
        Ok(self)
    }

    /// Tensors that no step of its architecture reads.
    fn surplus(&self, plan: &Plan) -> Vec<&str> {
        let params = plan.params();
        let names = self.weights.names().into_iter();
        let is_surplus = |name: &&str| !params.contains_key(name) && !self.model.is_redundant(name);
        names.filter(is_surplus).collect()
    }

    /// What to say of them: buffers, other heads. transformers leaves them out.
    fn left_out(&self) -> Result<Option<String>> {
        const SHOWN: usize = 4;
        let plan = self.model.plan(self.dtype, &Arithmetic::default())?;
        let surplus = self.surplus(&plan);
        if surplus.is_empty() {
            return Ok(None);
        }
        let named = listed(&surplus, SHOWN);
        let architecture = self.model.architecture();
        Ok(Some(format!(
            "left out, as no part of a {architecture}: {named}"
        )))
    }

    /// The same model with all of its weights in one type, the one that is asked for or else its own: rounded as
    /// they are loaded, as transformers rounds what is stored in others.
    fn cast(mut self, asked: Option<DType>) -> Self {
        let dtype = asked.unwrap_or(self.dtype);
        let mut others: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for name in self.weights.names() {
            let stored = self.weights.stored(name).map(|stored| stored.dtype);
            let is_other = |stored: &DType| *stored != dtype && stored.is_runnable();
            let is_cast = !self.model.keeps_type(name);
            if let Some(stored) = stored.filter(is_other).filter(|_| is_cast) {
                others.entry(stored.to_string()).or_default().push(name);
            }
        }
        let count = self.weights.names().len();
        for (stored, names) in &others {
            let casts = names.len();
            self.notes.push(if casts == count {
                format!("weights cast from {stored} to {dtype} on loading")
            } else {
                format!(
                    "{casts} of {count} weights are stored as {stored} ({} first): cast to {dtype} on loading",
                    names[0]
                )
            });
        }
        if !others.is_empty() {
            let names = self.weights.names().into_iter();
            let kept = names.filter(|name| self.model.keeps_type(name));
            let kept = kept.map(str::to_owned).collect();
            self.weights = Box::new(Adapted::new(self.weights).cast(dtype).keeping(kept));
        }
        Self { dtype, ..self }
    }

    /// The tensors with a row for every token: the embedding and, if it is one of its own, the head.
    fn of_vocabulary(&self) -> Result<BTreeSet<String>> {
        let plan = self.model.plan(self.dtype, &Arithmetic::default())?;
        let steps = plan.steps().iter().filter(|step| {
            let role = self.model.role(&step.stage);
            matches!(role, Some(Role::Embedding | Role::Logits))
        });
        let params = steps.flat_map(|step| &step.params);
        Ok(params.map(|param| param.name.clone()).collect())
    }

    /// The model and its weights with the first rows of its vocabulary alone.
    pub(super) fn with_vocabulary(
        &self,
        rows: usize,
    ) -> Result<(ModelConfig, Box<dyn Weights + '_>)> {
        let weights = Box::new(self.weights.as_ref());
        if rows >= self.model.vocab_size() {
            return Ok((self.model.clone(), weights));
        }
        let names = self.of_vocabulary()?.into_iter();
        let first_rows = names.map(|name| (name, rows)).collect();
        let weights = Adapted::new(weights).first_rows(first_rows);
        Ok((self.model.with_vocab_size(rows), Box::new(weights)))
    }

    /// The same model with a deliberate bug in it.
    #[must_use]
    pub fn with(self, bug: Injected) -> Self {
        let rewriting: StepEdit = match self.rewriting {
            None => bug.rewriting,
            Some(first) => Box::new(move |step| {
                first(step);
                (bug.rewriting)(step);
            }),
        };
        Self {
            weights: Box::new(Overlay::new(self.weights, bug.weights)),
            rewriting: Some(rewriting),
            ..self
        }
    }

    /// The name of the file that says what it is.
    pub(super) fn settings_name(&self) -> String {
        let name = self.settings.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The file that says what it is.
    pub(super) fn settings(&self) -> &Path {
        &self.settings
    }

    /// The arithmetic that a case asks for. What it leaves open is as the model is meant to be run:
    /// a model in Megatron's shards as Megatron ran it, on as many ranks. Where the model does not
    /// say, Megatron's details are those of `golden`.
    pub(super) fn arithmetic(&self, case: &Case, golden: &Arithmetic) -> Arithmetic {
        let asked = case.arithmetic.or_else(|| {
            let ranked = case.tensor_parallel.is_some() || self.megatron.is_some();
            ranked.then_some(ArithmeticName::Megatron)
        });
        match asked {
            Some(ArithmeticName::Megatron) => {
                let recorded = match golden {
                    Arithmetic::Megatron(megatron) => Some(*megatron),
                    Arithmetic::Transformers(_) => None,
                };
                let megatron = self.megatron.or(recorded).unwrap_or_default();
                let ranks = case.tensor_parallel.map(usize::from);
                Arithmetic::Megatron(MegatronArithmetic {
                    tensor_parallel: ranks.unwrap_or(megatron.tensor_parallel),
                    // Properties of the run, which no checkpoint has.
                    fused_kernels: recorded.unwrap_or_default().fused_kernels,
                    all_reduce: recorded.unwrap_or_default().all_reduce,
                    expert_ranks: recorded.unwrap_or_default().expert_ranks,
                    ..megatron
                })
            }
            Some(ArithmeticName::Transformers) | None => {
                // Properties of the run, which no model has; else transformers' defaults.
                let (use_cache, grouped_experts) = match golden {
                    Arithmetic::Transformers(run) => (run.use_cache, run.grouped_experts),
                    Arithmetic::Megatron(_) => (false, true),
                };
                Arithmetic::Transformers(TransformersArithmetic {
                    use_cache,
                    grouped_experts: grouped_experts && self.model.experts() > 0,
                    ..self.transformers
                })
            }
        }
    }

    /// The plan of the model, which may have less of its vocabulary, in an arithmetic.
    ///
    /// # Errors
    /// None for settings that have been validated.
    pub(super) fn plan(&self, model: &ModelConfig, arithmetic: &Arithmetic) -> Result<Plan> {
        let plan = model.plan(self.dtype, arithmetic)?;
        let Some(rewriting) = &self.rewriting else {
            return Ok(plan);
        };
        let mut steps = plan.steps().to_vec();
        steps.iter_mut().for_each(rewriting);
        Plan::new(plan.dtype(), steps)
    }

    /// Checks that it holds the tensors that its architecture has.
    ///
    /// # Errors
    /// [`BadInput`] naming every missing, misshapen and wrongly typed tensor.
    pub(super) fn check(&self) -> Result<()> {
        // Some arithmetics leave parameters out; a whole model has them all the same.
        let plan: Plan = self.model.plan(self.dtype, &Arithmetic::default())?;
        let params = plan.params();
        let mut faults = Vec::new();
        for (name, param) in &params {
            match self.weights.stored(name) {
                None => faults.push(format!("{name} {:?} is missing", param.shape)),
                Some(stored) if stored.shape != param.shape => faults.push(format!(
                    "{name} has shape {:?} instead of {:?}",
                    stored.shape, param.shape
                )),
                Some(stored)
                    if stored.dtype != plan.dtype()
                        && !(self.model.keeps_type(name) && stored.dtype.is_runnable()) =>
                {
                    faults.push(format!(
                        "{name} is {} instead of {}",
                        stored.dtype,
                        plan.dtype()
                    ))
                }
                Some(_) => {}
            }
        }
        if faults.is_empty() {
            return Ok(());
        }
        // One that is left over may be one that is missing, under another name.
        let surplus = self.surplus(&plan).into_iter();
        faults.extend(surplus.map(|name| format!("{name} belongs to no module")));
        const SHOWN: usize = 8;
        let found = listed(&faults, SHOWN);
        let expected = format!("the {} tensors that config.json asks for", params.len());
        Err(BadInput::new(&self.folder, expected, found).into())
    }
}
