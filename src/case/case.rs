//! A case: a golden, a model, an arithmetic and tolerances.

use super::rules::Rules;
use crate::tensor::DType;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// What one comparison of a model with a golden consists of.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name in reports: the case file's without its ending.
    pub name: String,
    /// The golden's folder.
    pub golden: PathBuf,
    /// The converted model's folder, or a Megatron checkpoint's.
    pub model: PathBuf,
    /// Whose arithmetic (rounding points) the model is run in; if `None`, that of the framework whose
    /// format it is in.
    pub arithmetic: Option<ArithmeticName>,
    /// Over how many tensor-parallel ranks Megatron's arithmetic sums row-parallel products; as the
    /// model's shards or the golden have it if `None`.
    pub tensor_parallel: Option<NonZeroUsize>,
    /// The type that weights are rounded to as they are loaded, as `from_pretrained(dtype=…)` does;
    /// their own if `None`.
    pub dtype: Option<DType>,
    /// Its tolerances.
    pub rules: Rules,
}

/// An arithmetic by name. Megatron's details come from the golden if Megatron made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ArithmeticName {
    /// The converted model as its users will run it.
    Transformers,
    /// As Megatron computes it.
    Megatron,
}
