//! A folder of files that hold tensors: what parity's dumper writes, what SGLang's does, or anybody's.

use super::order::natural;
use super::{Dump, Dumped, MOST, ending, ranks, sglang, stem, torch};
use crate::error::{BadInput, Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Deepest folder looked into.
const DEPTH: usize = 4;

pub(super) fn open(path: &Path) -> Result<Dump> {
    let mut files = Vec::new();
    list(path, DEPTH, &mut files)?;
    files.sort_by_key(|file| natural(&file.to_string_lossy()));
    if let Some(dump) = sglang::open(path, &files)? {
        return Ok(dump);
    }
    let is_array = |file: &&PathBuf| ending(file) == Some("npy");
    let several = |endings: &[&str]| {
        let same = files
            .iter()
            .filter(|file| ending(file).is_some_and(|own| endings.contains(&own)));
        same.count() > 1
    };
    let (many_archives, many_torch) = (several(&["npz"]), several(&torch::ENDINGS));
    let arrays = files.iter().filter(is_array);
    let mut names = array_names(path, arrays).into_iter();
    let mut tensors: Vec<Dumped> = Vec::new();
    for file in &files {
        let is_prefixed = match ending(file) {
            Some("npz") => many_archives,
            Some(ending) if torch::ENDINGS.contains(&ending) => many_torch,
            _ => false,
        };
        let prefix = stem(file);
        for mut tensor in Dump::file(file)?.tensors {
            if is_array(&file) {
                tensor.name = names.next().unwrap_or(tensor.name);
            } else if is_prefixed && tensor.name != prefix {
                tensor.name = format!("{prefix}.{}", tensor.name);
            }
            tensors.push(tensor);
        }
    }
    Ok(Dump::new(path, "folder", ranks::grouped(tensors)))
}

/// The names of the arrays in a folder: their paths from there, without endings, and without the number that the
/// dumper gives each, which is its place in the order. Where that leaves two of one name, the numbers are no
/// places, but layers.
fn array_names<'a>(folder: &Path, files: impl Iterator<Item = &'a PathBuf>) -> Vec<String> {
    let whole = files.map(|file| {
        let within = file.strip_prefix(folder).unwrap_or(file).with_extension("");
        let parts: Vec<_> = within.iter().map(|part| part.to_string_lossy()).collect();
        parts.join("/")
    });
    let whole: Vec<String> = whole.collect();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let without = whole.iter().map(|path| {
        let (folder, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        match name.split_once('.') {
            Some((number, rest)) if is_number(number) => format!("{folder}{rest}"),
            _ => path.clone(),
        }
    });
    let without: Vec<String> = without.collect();
    let mut seen = HashSet::new();
    if without.iter().all(|name| seen.insert(name)) {
        without
    } else {
        whole
    }
}

/// The files in a folder that may hold tensors. Links are not followed.
fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    const ENDINGS: [&str; 3] = ["npy", "npz", "safetensors"];
    for entry in folder.read_dir().map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io(&path, "read"))?;
        let holds = ending(&path)
            .is_some_and(|ending| ENDINGS.contains(&ending) || torch::ENDINGS.contains(&ending));
        if kind.is_dir() && depth > 1 {
            list(&path, depth - 1, files)?;
        } else if holds && !kind.is_dir() {
            files.push(path);
        }
        if files.len() > MOST {
            let expected = format!("at most {MOST} files of tensors");
            return Err(BadInput::new(folder, expected, "more").into());
        }
    }
    Ok(())
}
