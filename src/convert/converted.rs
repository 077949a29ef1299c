//! A Megatron checkpoint seen as the model that it converts to.

use crate::arch::{ArchitectureName, ConvertedConfig, Recipe, TensorRecipe};
use crate::checkpoint::megatron::MegatronCheckpoint;
use crate::checkpoint::{Stored, Weights};
use crate::compare::Replicas;
use crate::error::{BadInput, Error, Result, listed};
use crate::plan::MegatronArithmetic;
use crate::tensor::{DType, Tensor, Tiled};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A tensor of the converted model, its elements still in the shards.
#[derive(Clone, Debug)]
pub struct ConvertedTensor {
    /// Its name in transformers' model, in full.
    pub name: String,
    /// Megatron's name of what it is made of.
    pub source: String,
    /// Extent of every axis.
    pub shape: Vec<usize>,
    /// The elements in C order of `shape`; axes may be finer here.
    pub elements: Tiled,
    /// Whether they are a norm's weight less one.
    pub zero_centred: bool,
    /// Whether they keep their type, whatever type the model is written in.
    pub keeps_type: bool,
}

/// The converted model: every tensor checked and in its place, nothing read.
pub struct Converted {
    checkpoint: MegatronCheckpoint,
    architecture: ArchitectureName,
    recipe: Recipe,
    tensors: Vec<ConvertedTensor>,
    /// Positions in `tensors`, by name without the model prefix.
    by_name: BTreeMap<String, usize>,
    drifts: BTreeMap<String, f64>,
    dtype: DType,
}

impl ConvertedTensor {
    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.elements.dtype()
    }

    /// Whether elements are written in `dtype` as they lie in the shards.
    pub(super) fn is_copied_as(&self, dtype: DType) -> bool {
        self.dtype() == dtype && !self.zero_centred
    }

    /// The type that it is written in: the one that is asked for, or else its own.
    pub(super) fn written_as(&self, asked: Option<DType>) -> DType {
        asked.filter(|_| !self.keeps_type).unwrap_or(self.dtype())
    }

    /// The whole tensor in memory.
    ///
    /// # Errors
    /// None for a converted model's tensors.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let elements = self.elements.to_tensor()?.reshaped(&self.shape)?;
        if !self.zero_centred {
            return Ok(elements);
        }
        let dtype = self.dtype();
        let less_one = elements.cast(DType::F64)?;
        let values = less_one.as_slice::<f64>()?.iter().map(|value| value + 1.0);
        Tensor::from_vec(&self.shape, values.collect())?.cast(dtype)
    }
}

impl Converted {
    /// Finds out how `checkpoint` converts, and checks that everything that takes is there and has
    /// the shapes it should have. `vocabulary` is the number of tokens to keep, all if `None`.
    ///
    /// # Errors
    /// If the architecture is none that parity converts to, an argument is missing, or tensors are
    /// missing, surplus, misshapen or of different types.
    pub fn new(
        checkpoint: MegatronCheckpoint,
        architecture: Option<ArchitectureName>,
        vocabulary: Option<usize>,
    ) -> Result<Self> {
        let architecture = match architecture {
            Some(named) => named,
            None => ArchitectureName::of(&checkpoint)?,
        };
        let of = architecture.architecture();
        of.arguments().check(&checkpoint, of.name())?;
        let mut recipe = of.recipe(&checkpoint, vocabulary)?;
        if of.runnable().is_some() {
            // No config is written that could not be read.
            ConvertedConfig::from_settings(checkpoint.args().origin(), recipe.config.clone())?;
        }
        let left_out = check_names(&checkpoint, architecture, &recipe)?;
        recipe.notes.extend(left_out);
        let mut tensors = Vec::with_capacity(recipe.tensors.len());
        let mut drifts = BTreeMap::new();
        for one in &recipe.tensors {
            let (tensor, drift) = make(&checkpoint, one)?;
            if let Some(drift) = drift {
                drifts.insert(one.target.clone(), drift);
            }
            tensors.push(tensor);
        }
        for copy in &recipe.copies {
            if checkpoint.get(&copy.source).is_some() {
                recipe.notes.push(compared(&checkpoint, copy, &tensors)?);
            }
        }
        recipe.notes.extend(of.arguments().assumed(&checkpoint));
        recipe.notes.extend(checkpoint.args().notes());
        recipe.notes.extend(checkpoint.wrapped());
        let (dtype, mixed) = main_dtype(&checkpoint, &tensors)?;
        recipe.notes.extend(mixed);
        let prefix = architecture.architecture().prefix();
        let short = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
        let names = tensors.iter().enumerate();
        let by_name = names
            .map(|(index, tensor)| (short(&tensor.name), index))
            .collect();
        Ok(Self {
            checkpoint,
            architecture,
            recipe,
            tensors,
            by_name,
            drifts,
            dtype,
        })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &MegatronCheckpoint {
        &self.checkpoint
    }

    /// How its tensors are made.
    pub(super) fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The architecture of the converted model.
    pub fn architecture(&self) -> ArchitectureName {
        self.architecture
    }

    /// Every tensor, in the order of the model.
    pub fn tensors(&self) -> &[ConvertedTensor] {
        &self.tensors
    }

    /// Storage type of the checkpoint's tensors, or of most of their elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What a user should know about the conversion.
    pub fn notes(&self) -> &[String] {
        &self.recipe.notes
    }

    /// Tensors whose ranks had different values that should have been one, with the largest
    /// difference.
    pub fn drifts(&self) -> &BTreeMap<String, f64> {
        &self.drifts
    }

    /// The `config.json` of the model stored as `dtype`.
    pub fn config_json(&self, dtype: DType) -> Map<String, Value> {
        let mut config = self.recipe.config.clone();
        let name = dtype.float().map(|float| float.torch);
        // transformers before 4.56 knows only the second.
        config.insert("dtype".into(), name.into());
        config.insert("torch_dtype".into(), name.into());
        config
    }

    /// The model's configuration, as parity would read it from the converted folder.
    ///
    /// # Errors
    /// If parity has no plan for the architecture.
    pub fn config(&self) -> Result<ConvertedConfig> {
        let settings = self.config_json(self.dtype);
        ConvertedConfig::from_settings(self.checkpoint.args().origin(), settings)
    }

    /// The arithmetic in which the checkpoint was trained; `None` if parity has no plan for the
    /// architecture.
    ///
    /// # Errors
    /// If an argument is wrongly typed.
    pub fn arithmetic(&self) -> Result<Option<MegatronArithmetic>> {
        let runnable = self.architecture.architecture().runnable();
        let arithmetic = runnable.map(|runnable| (runnable.of_checkpoint)(&self.checkpoint));
        arithmetic.transpose()
    }
}

impl Weights for Converted {
    fn names(&self) -> Vec<&str> {
        self.by_name.keys().map(String::as_str).collect()
    }

    fn stored(&self, name: &str) -> Option<Stored> {
        let tensor = &self.tensors[*self.by_name.get(name)?];
        let listed = self.checkpoint.get(&tensor.source);
        Some(Stored {
            dtype: tensor.dtype(),
            shape: tensor.shape.clone(),
            file: listed.map_or_else(String::new, |listed| listed.file.clone()),
        })
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        match self.by_name.get(name) {
            Some(index) => self.tensors[*index].to_tensor(),
            None => {
                let expected = format!("the tensor {name}");
                Err(BadInput::new(self.checkpoint.path(), expected, "none").into())
            }
        }
    }
}

/// Checks that the checkpoint has all the tensors that the recipe asks for, and no others that the model would
/// compute with; gives what to say of those that are left out.
fn check_names(
    checkpoint: &MegatronCheckpoint,
    architecture: ArchitectureName,
    recipe: &Recipe,
) -> Result<Option<String>> {
    let needed: BTreeSet<&str> = recipe.tensors.iter().map(|t| t.source.as_str()).collect();
    let missing = needed.iter().filter(|name| checkpoint.get(name).is_none());
    let surplus = checkpoint
        .tensors()
        .map(|listed| listed.name.as_str())
        .filter(|name| {
            !needed.contains(name) && !recipe.copies.iter().any(|copy| copy.source == *name)
        });
    let (others, surplus): (Vec<&str>, Vec<&str>) =
        surplus.partition(|name| is_beside_the_model(name, &needed));
    let missing = missing.map(|name| format!("{name} is missing"));
    let surplus = surplus.into_iter();
    let surplus = surplus.map(|name| format!("{name} is not of a {architecture}"));
    let faults: Vec<String> = missing.chain(surplus).collect();
    const SHOWN: usize = 6;
    if faults.is_empty() {
        let named = listed(&others, SHOWN);
        let note = format!("left out, as no part of a {architecture}: {named}");
        return Ok((!others.is_empty()).then_some(note));
    }
    let found = listed(&faults, SHOWN);
    let layers = checkpoint.args().text("num_layers").unwrap_or_default();
    let expected = format!(
        "the {} tensors of a {architecture} of {layers} layers",
        needed.len()
    );
    Err(BadInput::new(checkpoint.path(), expected, found).into())
}

/// Whether a tensor is none that the model computes with: a buffer that follows from arguments, or part of a
/// module beside the model, such as the head of a reward.
fn is_beside_the_model(name: &str, needed: &BTreeSet<&str>) -> bool {
    const BUFFERS: [&str; 3] = ["inv_freq", "position_ids", "masked_bias"];
    fn root(name: &str) -> &str {
        name.split('.').next().unwrap_or(name)
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    BUFFERS.contains(&last) || !needed.iter().any(|needed| root(needed) == root(name))
}

/// Makes a tensor by its recipe. Returns how far its replicas are apart, too.
fn make(
    checkpoint: &MegatronCheckpoint,
    recipe: &TensorRecipe,
) -> Result<(ConvertedTensor, Option<f64>)> {
    let fault = |expected: String, found: String| -> Error {
        BadInput::new(checkpoint.path(), expected, found)
            .at(&recipe.source)
            .into()
    };
    let joined = checkpoint.joined(&recipe.source, recipe.partition)?;
    if joined.tiled.shape() != recipe.joined {
        let expected = format!("shape {:?}, as the arguments say", recipe.joined);
        return Err(fault(expected, format!("{:?}", joined.tiled.shape())));
    }
    let elements = recipe
        .relayout
        .iter()
        .try_fold(joined.tiled, |tiled, relayout| {
            relayout.apply(tiled).map_err(|e| match e {
                Error::Mismatch {
                    expected, found, ..
                } => fault(expected, found),
                other => other,
            })
        })?;
    debug_assert_eq!(elements.len(), recipe.shape.iter().product::<usize>());
    let tensor = ConvertedTensor {
        name: recipe.target.clone(),
        source: recipe.source.clone(),
        shape: recipe.shape.clone(),
        elements,
        zero_centred: recipe.zero_centred,
        keeps_type: recipe.keeps_type,
    };
    Ok((tensor, joined.drift))
}

/// What to say of a tensor that the checkpoint has a second time. One that is no replica is an error: the two
/// are heads of two models.
fn compared(
    checkpoint: &MegatronCheckpoint,
    copy: &TensorRecipe,
    tensors: &[ConvertedTensor],
) -> Result<String> {
    let (again, _) = make(checkpoint, copy)?;
    let Some(first) = tensors.iter().find(|tensor| tensor.name == copy.target) else {
        return Ok(format!("{} is of no use here", copy.source));
    };
    let [ours, theirs] = [first.to_tensor()?, again.to_tensor()?];
    let (source, tied) = (&copy.source, &first.source);
    if ours.dtype() == theirs.dtype() && ours.bits_equal(&theirs) {
        return Ok(format!("{source} is a copy of {tied}, and equal: left out"));
    }
    let replicas = Replicas::new(&ours, &theirs)?;
    let apart = replicas.apart;
    if !replicas.are_one() {
        let expected = format!(
            "the values of {tied}, which the head is tied to, within the rounding of replicas ({:.1e})",
            replicas.drift
        );
        let found = format!("others, up to {apart:.1e} apart");
        let fault = BadInput::new(checkpoint.path(), expected, found).at(source);
        let remedy = "convert with --arg untie_embeddings_and_output_weights=true to keep it as a head of its own";
        return Err(fault.remedy(remedy).into());
    }
    Ok(format!(
        "{source} is a copy of {tied} but for {apart:.1e}: left out"
    ))
}

/// The floating type that most elements have, and what to say where some have others.
fn main_dtype(
    checkpoint: &MegatronCheckpoint,
    tensors: &[ConvertedTensor],
) -> Result<(DType, Option<String>)> {
    let mut types: Vec<(DType, usize, Vec<&str>)> = Vec::new();
    for tensor in tensors {
        let dtype = tensor.dtype();
        if !dtype.is_runnable() {
            let expected = "weights in fp32, fp16 or bf16";
            let fault = BadInput::new(checkpoint.path(), expected, dtype.to_string());
            return Err(fault.at(&tensor.source).into());
        }
        let elements: usize = tensor.shape.iter().product();
        match types.iter_mut().find(|(other, ..)| *other == dtype) {
            Some((_, count, names)) => {
                *count += elements;
                names.push(&tensor.source);
            }
            None => types.push((dtype, elements, vec![&tensor.source])),
        }
    }
    types.sort_by_key(|(_, elements, _)| std::cmp::Reverse(*elements));
    let Some(((main, ..), others)) = types.split_first() else {
        return Ok((DType::F32, None));
    };
    let others = others.iter().map(|(dtype, _, names)| {
        format!(
            "{} of {} in {dtype} ({} first)",
            names.len(),
            tensors.len(),
            names[0]
        )
    });
    let others: Vec<String> = others.collect();
    let note = (!others.is_empty()).then(|| {
        format!(
            "weights are stored in {main}, but {}: kept as they are unless --dtype is given; transformers casts \
             them to {main} on loading",
            others.join(" and ")
        )
    });
    Ok((*main, note))
}
