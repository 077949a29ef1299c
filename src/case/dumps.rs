//! A case of two dumps.

use super::rules::Rules;
use std::path::PathBuf;

/// What one comparison of two dumps consists of; no model is run.
#[derive(Clone, Debug)]
pub struct DumpCase {
    /// Its name in reports: the case file's without its ending.
    pub name: String,
    /// The dump that is compared with.
    pub reference: PathBuf,
    /// The dump that is compared.
    pub candidate: PathBuf,
    /// A file of names that belong together where they differ.
    pub map: Option<PathBuf>,
    /// Its tolerances.
    pub rules: Rules,
}
