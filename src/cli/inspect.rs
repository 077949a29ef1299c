//! `parity inspect`.

use super::args::InspectArgs;
use super::print::print;
use crate::arch::ArchitectureName;
use crate::backend::Gpu;
use crate::checkpoint::TransformersFolder;
use crate::checkpoint::megatron::MegatronCheckpoint;
use crate::compare::{Metrics, Spec, compare};
use crate::dump::Dump;
use crate::error::{BadInput, Error};
use crate::golden::{Content, Golden, StatisticsFiles};
use crate::tensor::{DType, MappedFile, Tensor, npy, npz};
use crate::words;
use anyhow::Result;
use comfy_table::{Table, presets};
use std::path::Path;

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let path = args.path.as_path();
    let kind = path.metadata().map_err(Error::io(path, "open"))?;
    let text = if kind.is_dir() {
        folder(path)?
    } else {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npz") => archive(path)?,
            Some("npy") | None => array(path)?,
            Some(_) => tensors(&Dump::open(path)?),
        }
    };
    print(&text)
}

fn folder(path: &Path) -> Result<String> {
    let as_golden = || Ok(golden(&Golden::open(path)?));
    let as_checkpoint = || Ok(checkpoint(&MegatronCheckpoint::open(path, &[])?));
    let mut kinds: Vec<(&str, &dyn Fn() -> Result<String>)> = Vec::new();
    if path.join(Golden::MANIFEST).exists() {
        kinds.push(("golden", &as_golden));
    }
    if MegatronCheckpoint::recognises(path) {
        kinds.push(("checkpoint", &as_checkpoint));
    }
    let as_model = || model(path);
    if path.join("config.json").exists() && TransformersFolder::has_weights(path) {
        kinds.push(("model", &as_model));
    }
    let mut text = String::new();
    for (kind, show) in &kinds {
        match show() {
            Ok(shown) => return Ok(text + &shown),
            // What a comparison refuses can be looked at all the same.
            Err(reason) => text += &format!("no {kind}: {reason}\n"),
        }
    }
    match (Dump::files(path), kinds.is_empty()) {
        (Ok(dump), _) => Ok(text + &tensors(&dump)),
        (Err(_), false) => Ok(text),
        (Err(_), true) => {
            let expected = format!(
                "a golden ({}), a model (config.json), a Megatron checkpoint or files of tensors",
                Golden::MANIFEST
            );
            Err(Error::from(BadInput::new(path, expected, "none of these")).into())
        }
    }
}

/// The tensors of a dump, each with what can be said of it.
fn tensors(dump: &Dump) -> String {
    let rows = dump.tensors().iter().map(|tensor| match tensor.header() {
        Ok((dtype, shape)) => vec![tensor.name.clone(), dtype, format!("{shape:?}")],
        Err(reason) => vec![tensor.name.clone(), format!("cannot be read: {reason}")],
    });
    let all = dump.tensors().len();
    format!("{dump}: {all} tensors\n") + &table(&["tensor", "dtype", "shape"], rows)
}

/// What is wrong with a golden's files, stage by stage.
fn damage(golden: &Golden) -> String {
    let stages = golden.manifest().stages.iter();
    let broken = stages.filter_map(|record| golden.reference(&record.stage).err());
    let broken = broken.map(|reason| format!("damaged: {reason}\n"));
    broken.collect()
}

fn golden(golden: &Golden) -> String {
    let manifest = golden.manifest();
    let provenance = &manifest.provenance;
    let mut text = format!(
        "golden: {} stages, {}, from {} on {} ({} arithmetic)\n",
        manifest.stages.len(),
        manifest.dtype,
        provenance.framework,
        provenance.device,
        manifest.arithmetic,
    );
    let fields = [
        ("version", &provenance.framework_version),
        ("commit", &provenance.commit),
        ("torch", &provenance.torch),
        ("unit", &provenance.unit),
        (
            "autocast",
            &provenance.autocast.map(|dtype| dtype.to_string()),
        ),
        ("gpu", &provenance.gpu.as_ref().map(Gpu::to_string)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            text += &format!("{name}: {}\n", words::sentence(value));
        }
    }
    text += &format!(
        "model: {}\n",
        words::sentence(&format!("{:?}", manifest.model))
    );
    for (library, version) in &provenance.libraries {
        let line = format!("{library}: {version}");
        text += &format!("  {}\n", words::sentence(&line));
    }
    for (key, value) in provenance.numerics.iter().chain(&provenance.extra) {
        let line = format!("{key}: {value}");
        text += &format!("  {}\n", words::sentence(&line));
    }
    let inputs = [
        ("positions", &manifest.positions),
        ("attention mask", &manifest.attention_mask),
    ];
    for (name, file) in inputs {
        if let Some(record) = file {
            text += &format!("{name}: {}\n", words::name(&record.file));
        }
    }
    for key in golden.ignored_keys() {
        text += &format!("not known to this version: {}\n", words::name(key));
    }
    let rows = manifest.stages.iter().map(|record| {
        let content = match &record.content {
            Content::Full { files, .. } if files.len() > 1 => {
                format!("values of {} ranks", files.len())
            }
            Content::Full { .. } => "values".to_owned(),
            Content::Statistics(files) => statistics(files),
        };
        let variant = match (record.variant.without_bias, record.variant.divided_by) {
            (true, _) => "without bias".to_owned(),
            (false, 1.0) => String::new(),
            (false, divisor) => format!("divided by {divisor}"),
        };
        vec![
            record.stage.to_string(),
            record.dtype.to_string(),
            format!("{:?}", record.layout).to_lowercase(),
            content,
            variant,
            record.source.clone(),
        ]
    });
    let rows = table(
        &["stage", "dtype", "layout", "holds", "variant", "dumped as"],
        rows,
    );
    text + &rows + &damage(golden)
}

fn statistics(files: &StatisticsFiles) -> String {
    let kinds = [
        ("mean", &files.token_mean),
        ("min", &files.token_min),
        ("max", &files.token_max),
        ("sum", &files.token_sum),
        ("vocabulary means", &files.vocab_shard_mean),
    ];
    let kinds = kinds.iter().filter(|(_, file)| file.is_some());
    let kinds = kinds.map(|(name, _)| *name);
    let projection = files.token_projection.iter().map(|_| "projection");
    let kinds: Vec<&str> = kinds.chain(projection).collect();
    format!("statistics: {}", kinds.join(", "))
}

fn model(path: &Path) -> Result<String> {
    let mut text = String::new();
    // Weights can be listed even where parity has no plan for the architecture.
    let weights = match TransformersFolder::open(path) {
        Ok(folder) => {
            let (dtype, config) = (folder.dtype(), folder.config().model.clone());
            let config = format!("{config:?}");
            text += &format!("model: {dtype}, {}\n", words::sentence(&config));
            folder.into_weights()
        }
        Err(reason) => {
            let weights = TransformersFolder::stored_weights(path)?;
            text += &format!("model: {reason}\n");
            weights
        }
    };
    let names = weights.names();
    text += &format!("{} tensors\n", names.len());
    let rows = names.into_iter().filter_map(|name| {
        let stored = weights.stored(name)?;
        let shape = format!("{:?}", stored.shape);
        Some(vec![
            name.to_owned(),
            stored.dtype.to_string(),
            shape,
            stored.file,
        ])
    });
    text += &table(&["tensor", "dtype", "shape", "file"], rows);
    Ok(text)
}

fn checkpoint(checkpoint: &MegatronCheckpoint) -> String {
    let args = checkpoint.args();
    let mut text = format!(
        "checkpoint: {}, {} tensors, {} tensor-parallel ranks\n",
        checkpoint.format(),
        checkpoint.tensors().count(),
        checkpoint.ranks(),
    );
    match ArchitectureName::of(checkpoint) {
        Ok(architecture) => text += &format!("converts to: {architecture}\n"),
        Err(reason) => text += &format!("converts to: nothing; {reason}\n"),
    }
    let rows = checkpoint.tensors().map(|listed| {
        let dtype = match &listed.dtype {
            Ok(dtype) => dtype.to_string(),
            Err(other) => other.clone(),
        };
        let shape = format!("{:?}", listed.shape);
        let pieces = listed.pieces.to_string();
        vec![
            listed.name.clone(),
            dtype,
            shape,
            pieces,
            listed.file.clone(),
        ]
    });
    text += &table(&["tensor", "dtype", "shape", "pieces", "file"], rows);
    text += if args.is_empty() {
        "no arguments\n"
    } else {
        "arguments\n"
    };
    for (name, value) in args.iter() {
        let line = format!("{name}: {value}");
        text += &format!("  {}\n", words::sentence(&line));
    }
    text
}

fn array(path: &Path) -> Result<String> {
    let file = MappedFile::open(path)?;
    let (header, tensor) = likely(|declared| {
        let header = npy::parse_header(path, &file, file.len(), declared)?;
        Ok((header, npy::read(path, declared)?))
    })?;
    let order = if header.fortran_order { "Fortran" } else { "C" };
    let first = format!(
        "{} ({}), shape {:?}, {order} order\n",
        header.dtype, header.spelled, header.shape
    );
    Ok(first + &figures(&tensor)?)
}

fn archive(path: &Path) -> Result<String> {
    let archive = npz::Archive::open(path)?;
    let mut text = String::new();
    for name in archive.names() {
        let tensor = likely(|declared| archive.read(name, declared))?;
        text += &format!(
            "{}: {}, shape {:?}\n{}",
            words::name(name),
            tensor.dtype(),
            tensor.shape(),
            figures(&tensor)?
        );
    }
    Ok(text)
}

/// Reads an array, the bits of `V2`, `u2` and `V1` as what they most likely are. (e5m2 has a name
/// of its own.)
fn likely<T>(read: impl Fn(Option<DType>) -> crate::Result<T>) -> crate::Result<T> {
    let as_fp8 = |refused| read(Some(DType::F8E4M3)).map_err(|_| refused);
    read(Some(DType::Bf16)).or_else(as_fp8)
}

/// What can be said of an array's values.
fn figures(tensor: &Tensor) -> Result<String> {
    let Metrics { non_finite, .. } = compare(tensor, tensor, &Spec::default())?;
    let all = tensor.clone().reshaped(&[tensor.len()])?;
    let whole = crate::compare::Statistics::new(&all, None)?;
    let only = |column: &Option<Vec<f64>>| match column.as_deref() {
        Some([value]) => format!("{value:e}"),
        _ => "-".to_owned(),
    };
    Ok(format!(
        "  mean {}, min {}, max {}, {} NaN, {} infinite\n",
        only(&whole.token_mean),
        only(&whole.token_min),
        only(&whole.token_max),
        non_finite.reference_nans,
        non_finite.reference_infinities,
    ))
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| words::name(cell).to_string()));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}
