//! The zip container, and what lies where in it.

use crate::error::{BadInput, Error, Result};
use crate::tensor::MappedFile;
use rawzip::{CompressionMethod, ZipArchive, ZipArchiveEntryWayfinder, ZipSliceArchive};
use std::collections::BTreeMap;
use std::ops::Range;

/// Members that matter, as ranges of the file.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) pickle: Range<usize>,
    /// Storages by key.
    pub(super) storages: BTreeMap<String, Range<usize>>,
}

/// How zip archives begin; `torch.save` writes no self-extracting ones.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// Finds the members of the archive that is `part` of `file`.
///
/// # Errors
/// If it is no zip archive, has no `data.pkl` or several, is big-endian, or a member is compressed,
/// encrypted, listed twice or not inside the archive.
pub(super) fn members(file: &MappedFile, part: &Range<usize>) -> Result<Members> {
    let fault = |expected: &str, found: String| -> Error {
        BadInput::new(file.path(), expected, found).into()
    };
    let malformed =
        |e: rawzip::Error| fault("a zip archive as torch.save writes it", e.to_string());
    let bytes = &file[part.clone()];
    let archive = ZipArchive::from_slice(bytes).map_err(malformed)?;
    let mut entries = Vec::new();
    for entry in archive.entries() {
        let entry = entry.map_err(malformed)?;
        let name = String::from_utf8_lossy(entry.file_path().as_ref()).into_owned();
        entries.push((name, entry.compression_method(), entry.wayfinder()));
    }
    let prefixes: Vec<String> = entries
        .iter()
        .filter_map(|(name, ..)| name.strip_suffix("data.pkl"))
        .map(str::to_owned)
        .collect();
    let [prefix] = prefixes.as_slice() else {
        let found = format!("{} of them", prefixes.len());
        return Err(fault("a zip archive with one data.pkl", found));
    };
    let mut pickle = None;
    let mut storages = BTreeMap::new();
    for (name, method, wayfinder) in entries {
        let Some(member) = name.strip_prefix(prefix.as_str()) else {
            continue;
        };
        let key = member.strip_prefix("data/");
        if key.is_none() && !matches!(member, "data.pkl" | "byteorder") {
            continue;
        }
        if method != CompressionMethod::STORE {
            let expected = format!("a stored member {member}, as torch.save writes it");
            return Err(fault(&expected, format!("compression method {method:?}")));
        }
        let (start, end) = locate(&archive, wayfinder, &name)
            .map_err(|found| fault(&format!("a whole, plain member {member}"), found))?;
        let range = part.start + start..part.start + end;
        match key {
            Some(key) => {
                if storages.insert(key.to_owned(), range).is_some() {
                    return Err(fault("every storage once", format!("{key:?} twice")));
                }
            }
            None if member == "byteorder" => {
                let order = &file[range];
                if order != b"little" {
                    let found = String::from_utf8_lossy(&order[..order.len().min(16)]);
                    return Err(fault("byte order little", found.into_owned()));
                }
            }
            None => pickle = Some(range),
        }
    }
    let pickle = pickle.ok_or_else(|| fault("a member data.pkl", "none".into()))?;
    Ok(Members { pickle, storages })
}

/// Where a member's bytes lie in the archive.
fn locate(
    archive: &ZipSliceArchive<&[u8]>,
    wayfinder: ZipArchiveEntryWayfinder,
    name: &str,
) -> Result<(usize, usize), String> {
    let entry = archive.get_entry(wayfinder).map_err(|e| e.to_string())?;
    let local = entry.local_header();
    if local.flags().is_encrypted() {
        return Err("an encrypted one".into());
    }
    let local = String::from_utf8_lossy(local.file_path().as_ref()).into_owned();
    if local != name {
        return Err(format!("{local:?} where the directory has {name:?}"));
    }
    let (start, end) = entry.compressed_data_range();
    let recorded = entry.claim_verifier().uncompressed_size;
    if end - start != recorded {
        return Err(format!("{} bytes of {recorded}", end - start));
    }
    Ok((start as usize, end as usize))
}
