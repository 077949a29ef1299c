//! A case: a golden, a model, an arithmetic and tolerances.

use super::rules::Rules;
use std::path::PathBuf;

/// What one comparison of a model with a golden consists of.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name in reports: the case file's without its ending.
    pub name: String,
    /// The golden's folder.
    pub golden: PathBuf,
    /// The converted model's folder.
    pub model: PathBuf,
    /// Whose places of rounding the model is run with; transformers' if `None`.
    pub arithmetic: Option<ArithmeticName>,
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
