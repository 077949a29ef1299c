//! `.npz` archives: zip files of `.npy` members, stored or deflated.

use super::{DType, MappedFile, Tensor, npy};
use crate::error::{BadInput, Error, Result};
use crate::memory;
use flate2::{Crc, read::DeflateDecoder};
use rawzip::{CompressionMethod, ZipArchive, ZipSliceArchive};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Deflate cannot expand a byte to more than this.
const MAX_RATIO: u64 = 1032;
/// Bytes of a member that hold its header in any case.
const HEADER_PREFIX: usize = 12 + (64 << 10);

/// An open archive. Members are found by name, without `.npy`.
pub struct Archive {
    file: MappedFile,
    members: BTreeMap<String, Member>,
}

struct Member {
    method: CompressionMethod,
    wayfinder: rawzip::ZipArchiveEntryWayfinder,
    size: u64,
    compressed: u64,
}

impl Archive {
    /// Reads the directory of an archive.
    ///
    /// # Errors
    /// If the file is no zip archive, or two members have one name.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let malformed = |found: String| -> Error {
            BadInput::new(file.path(), "an .npz (zip) archive", found).into()
        };
        let archive = ZipArchive::from_slice(&file[..]).map_err(|e| malformed(e.to_string()))?;
        let mut members = BTreeMap::new();
        for entry in archive.entries() {
            let entry = entry.map_err(|e| malformed(e.to_string()))?;
            let name = String::from_utf8_lossy(entry.file_path().as_ref()).into_owned();
            let Some(name) = name.strip_suffix(".npy") else {
                continue;
            };
            let member = Member {
                method: entry.compression_method(),
                wayfinder: entry.wayfinder(),
                size: entry.uncompressed_size_hint(),
                compressed: entry.compressed_size_hint(),
            };
            if members.insert(name.to_owned(), member).is_some() {
                return Err(malformed(format!("two members {name}.npy")));
            }
        }
        Ok(Self { file, members })
    }

    /// The names of the arrays, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// Reads one array; see [`npy::read`] for `declared`.
    ///
    /// # Errors
    /// If there is none of this name, its bytes do not match their checksum, or they are no array.
    pub fn read(&self, name: &str, declared: Option<DType>) -> Result<Tensor> {
        // Not joined to the path: a member's name may be one of its own.
        let path = PathBuf::from(format!("{}: {name}.npy", self.file.path().display()));
        let fault = |expected: &str, found: String| BadInput::new(&path, expected, found);
        let Some(member) = self.members.get(name) else {
            let names: Vec<_> = self.names().collect();
            return Err(fault("a member of the archive", format!("members {names:?}")).into());
        };
        let malformed = |e: rawzip::Error| fault("a member of a zip archive", e.to_string());
        let archive: ZipSliceArchive<&[u8]> =
            ZipArchive::from_slice(&self.file[..]).map_err(malformed)?;
        let entry = archive.get_entry(member.wayfinder).map_err(malformed)?;
        let local = entry.local_header();
        if local.flags().is_encrypted() {
            return Err(fault("a plain member", "an encrypted one".into()).into());
        }
        let local = String::from_utf8_lossy(local.file_path().as_ref()).into_owned();
        if local.strip_suffix(".npy") != Some(name) {
            let expected = "the name that the archive's directory has";
            return Err(fault(expected, format!("{local:?}")).into());
        }
        let inflated = match member.method {
            CompressionMethod::STORE => None,
            CompressionMethod::DEFLATE => {
                if member.size > member.compressed.saturating_mul(MAX_RATIO) {
                    let expected = format!("at most {MAX_RATIO} bytes for each deflated one");
                    let found = format!("{} for {}", member.size, member.compressed);
                    return Err(fault(&expected, found).into());
                }
                Some(inflate(entry.data(), member.size, &path, declared)?)
            }
            other => {
                let expected = "a stored or deflated member";
                return Err(fault(expected, format!("compression method {other:?}")).into());
            }
        };
        let bytes = inflated.as_deref().unwrap_or(entry.data());
        let mut crc = Crc::new();
        crc.update(bytes);
        let recorded = entry.claim_verifier();
        if bytes.len() as u64 != recorded.uncompressed_size || crc.sum() != recorded.crc {
            let (size, sum) = (recorded.uncompressed_size, recorded.crc);
            let expected = format!("{size} bytes with CRC {sum:08x}");
            let found = format!("{} bytes with CRC {:08x}", bytes.len(), crc.sum());
            return Err(fault(&expected, found).into());
        }
        match &inflated {
            Some(bytes) => npy::from_bytes(&path, bytes, declared),
            None => {
                let (start, end) = entry.compressed_data_range();
                npy::from_mapped(&path, &self.file, start as usize..end as usize, declared)
            }
        }
    }
}

/// Inflates a member of at most `size` bytes. The header comes first and must account for `size`
/// before memory is taken for the rest.
fn inflate(data: &[u8], size: u64, path: &Path, declared: Option<DType>) -> Result<Vec<u8>> {
    let fault = |found: String| BadInput::new(path, "a deflated member", found);
    let mut decoder = DeflateDecoder::new(data);
    let mut bytes = Vec::new();
    let prefix = HEADER_PREFIX as u64;
    let mut take = |bytes: &mut Vec<u8>, limit: u64| {
        let taken = decoder.by_ref().take(limit).read_to_end(bytes);
        taken.map_err(|e| fault(e.to_string()))
    };
    take(&mut bytes, prefix.min(size))?;
    let size = usize::try_from(size).map_err(|_| fault(format!("{size} bytes")))?;
    if bytes.len() <= size {
        npy::parse_header(path, &bytes, size, declared)?;
    }
    memory::allow(path, "a deflated member", size as u128)?;
    // One byte more than claimed is enough to see that there are more.
    let rest = (size - bytes.len().min(size)) as u64 + 1;
    take(&mut bytes, rest)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::DeflateEncoder};
    use std::io::Write;

    /// A zip of one deflated or stored member, as numpy writes it, with a claimed size.
    fn archive(path: &Path, name: &str, data: &[u8], deflated: bool, claimed: u32) {
        let mut crc = Crc::new();
        crc.update(data);
        let body = if deflated {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        } else {
            data.to_vec()
        };
        let method = if deflated { 8_u16 } else { 0 };
        let common = [
            &20_u16.to_le_bytes()[..],
            &0_u16.to_le_bytes(),
            &method.to_le_bytes(),
            &[0; 4],
            &crc.sum().to_le_bytes(),
            &(body.len() as u32).to_le_bytes(),
            &claimed.to_le_bytes(),
            &(name.len() as u16).to_le_bytes(),
            &[0; 2],
        ]
        .concat();
        let local = [b"PK\x03\x04", &common[..], name.as_bytes(), &body].concat();
        let central = [
            b"PK\x01\x02\x14\x00",
            &common[..],
            &[0; 14],
            name.as_bytes(),
        ]
        .concat();
        let end = [
            b"PK\x05\x06\0\0\0\0\x01\0\x01\0",
            &(central.len() as u32).to_le_bytes()[..],
            &(local.len() as u32).to_le_bytes(),
            &[0; 2],
        ]
        .concat();
        std::fs::write(path, [local, central, end].concat()).unwrap();
    }

    fn member(folder: &Path) -> (Tensor, Vec<u8>) {
        let tensor = Tensor::from_vec(&[1000], (0..1000).collect::<Vec<i32>>()).unwrap();
        let path = folder.join("x.npy");
        npy::write(&path, &tensor).unwrap();
        (tensor, std::fs::read(path).unwrap())
    }

    #[test]
    fn stored_and_deflated_members_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (tensor, bytes) = member(folder.path());
        for deflated in [false, true] {
            let path = folder.path().join("x.npz");
            archive(&path, "x.npy", &bytes, deflated, bytes.len() as u32);
            let archive = Archive::open(&path).unwrap();
            assert_eq!(archive.names().collect::<Vec<_>>(), ["x"]);
            assert!(archive.read("x", None).unwrap().bits_equal(&tensor));
            assert!(archive.read("y", None).is_err());
        }
    }

    #[test]
    fn sizes_that_lie_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_, bytes) = member(folder.path());
        let path = folder.path().join("x.npz");
        for claimed in [
            0,
            100,
            bytes.len() as u32 - 1,
            bytes.len() as u32 + 1,
            u32::MAX - 1,
        ] {
            for deflated in [false, true] {
                archive(&path, "x.npy", &bytes, deflated, claimed);
                let read = Archive::open(&path).and_then(|archive| archive.read("x", None));
                assert!(read.is_err(), "claimed {claimed}, deflated {deflated}");
            }
        }
    }

    #[test]
    fn a_truncated_archive_is_refused_at_every_length() {
        let folder = tempfile::tempdir().unwrap();
        let (_, bytes) = member(folder.path());
        let path = folder.path().join("x.npz");
        archive(&path, "x.npy", &bytes, true, bytes.len() as u32);
        let whole = std::fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(13) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let read = Archive::open(&path).and_then(|archive| archive.read("x", None));
            assert!(read.is_err(), "cut to {length}");
        }
    }
}
