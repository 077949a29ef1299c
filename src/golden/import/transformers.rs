//! Dumps of transformers: hooks are named by module paths, the model prefix taken off.

use super::described::Described;
use super::ranks::Ranks;
use super::raw::RawDump;
use crate::arch::{ConvertedConfig, Framework};
use crate::error::Result;
use crate::golden::major_minor;
use crate::plan::{Arithmetic, TransformersArithmetic};
use crate::tensor::DType;
use std::path::Path;

/// Reads the settings that transformers' dumps come with: the model's own, or the folder that
/// `model` names.
pub(super) fn describe(dump: &RawDump) -> Result<Described> {
    let config = if dump.is_described() {
        ConvertedConfig::from_settings(dump.config_path(), dump.config().clone())?
    } else {
        of_folder(dump)?
    };
    let prefix = config.model.base_prefix();
    Ok(Described {
        framework: Framework::Transformers,
        dtype: dump.setting::<DType>(&["dtype"], "fp32, fp16 or bf16")?,
        arithmetic: Arithmetic::Transformers(TransformersArithmetic {
            use_cache: used_cache(dump)?,
            grouped_experts: config.model.experts() > 0 && has_grouped_experts(dump)?,
            ..config.arithmetic
        }),
        ranks: Ranks::ONE,
        packs: packs(dump)?,
        hook: Box::new(move |name| Some(name.strip_prefix(prefix).unwrap_or(name).to_owned())),
        model: config.model,
    })
}

/// Whether keys and values went through a cache, of a run on a GPU: elsewhere it changes nothing.
fn used_cache(dump: &RawDump) -> Result<bool> {
    Ok(dump.is_of_a_gpu() && cached(dump)?.unwrap_or(false))
}

/// Whether a mixture's experts were grouped products: as the run says, or else transformers' default since version 5,
/// unless what experts gave was recorded one by one, which grouped ones do not show.
fn has_grouped_experts(dump: &RawDump) -> Result<bool> {
    const FIRST: (u32, u32) = (5, 0);
    let key = "experts_implementation";
    let what = "the implementation of experts";
    let said: Option<String> = match dump.numerics(key, what)? {
        Some(said) => Some(said),
        None => dump.optional(&[key], what)?,
    };
    if let Some(said) = said {
        return Ok(said != "eager");
    }
    let version: Option<String> =
        dump.optional(&["framework_version", "transformers"], "a version")?;
    let version = version.and_then(|version| major_minor(&version));
    let names = || dump.listing.arrays.keys();
    let is_of_expert = |name: &str| {
        let rest = name.split_once(".experts.").map(|(_, rest)| rest);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let one_by_one = names().any(|(_, name)| is_of_expert(name));
    Ok(version.is_some_and(|version| version >= FIRST) && !one_by_one)
}

/// Whether positions that start again hide what is before them: of runs without a cache, since 4.53.
fn packs(dump: &RawDump) -> Result<Option<bool>> {
    const FIRST: (u32, u32) = (4, 53);
    let version: Option<String> = dump.optional(&["framework_version"], "a version")?;
    let version = version.and_then(|version| major_minor(&version));
    if version.is_some_and(|version| version < FIRST) {
        return Ok(Some(false));
    }
    Ok(cached(dump)?.map(|cached| !cached))
}

/// Whether keys and values went through a cache, if the dump says so.
fn cached(dump: &RawDump) -> Result<Option<bool>> {
    dump.numerics("use_cache", "true or false")
}

/// The configuration in the folder that was run, with what was set for this run.
fn of_folder(dump: &RawDump) -> Result<ConvertedConfig> {
    let model: String = dump.setting(&["model"], "the path of the model folder")?;
    let beside = dump.config_path().parent().unwrap_or(Path::new(""));
    let path = beside.join(model).join("config.json");
    let mut settings = ConvertedConfig::settings(&path)?;
    settings.extend(dump.config().clone());
    ConvertedConfig::from_settings(&path, settings)
}
