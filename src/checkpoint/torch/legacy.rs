//! The container before torch 1.6: pickles in a row, then the storages.

use super::tensor::{Kind, StorageRecord};
use super::value::Pickle;
use crate::error::{BadInput, Error, Result};
use crate::tensor::MappedFile;
use std::collections::BTreeMap;
use std::ops::Range;

/// `0x1950a86a20f9469cfc6c`, as the first pickle writes it: protocol 2, a long of ten bytes.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The only version of the protocol there was.
const PROTOCOL: i64 = 1001;

/// The object's pickle, and where every storage lies in the file.
pub(super) struct Contents {
    pub(super) pickle: Pickle,
    pub(super) storages: BTreeMap<String, Range<usize>>,
}

/// Reads the container that is `part` of `file`, which begins with [`MAGIC`].
///
/// # Errors
/// If a pickle is malformed, the machine was big-endian, or a storage is not inside the file.
pub(super) fn contents(file: &MappedFile, part: &Range<usize>) -> Result<Contents> {
    let fault = |expected: &str, found: String| -> Error {
        BadInput::new(file.path(), expected, found).into()
    };
    let mut next = part.start + MAGIC.len();
    let mut pickle = || -> Result<Pickle> {
        let (pickle, length) = Pickle::read(&file[next..part.end]).map_err(|e| {
            let fault = BadInput::new(file.path(), e.expected, e.found);
            fault.at(format!("byte {}", next + e.at))
        })?;
        next += length;
        Ok(pickle)
    };
    let protocol = pickle()?;
    if protocol.root().int() != Some(PROTOCOL) {
        let expected = format!("protocol {PROTOCOL}");
        return Err(fault(&expected, protocol.root().shown().to_string()));
    }
    let machine = pickle()?;
    let little = machine
        .root()
        .get("little_endian")
        .and_then(|node| node.boolean());
    if little != Some(true) {
        return Err(fault(
            "a file of a little-endian machine",
            machine.root().shown().to_string(),
        ));
    }
    let object = pickle()?;
    let keys = pickle()?;
    let element_sizes: BTreeMap<String, Option<usize>> = object
        .nodes()
        .filter_map(StorageRecord::from_node)
        .map(|storage| (storage.key.to_owned(), storage.kind.size()))
        .collect();
    let mut storages = BTreeMap::new();
    for key in keys.root().elements().into_iter().flatten() {
        let Some(key) = key.text() else {
            return Err(fault("keys of storages", key.shown().to_string()));
        };
        let size = element_sizes.get(key).copied().flatten();
        let Some(size) = size else {
            return Err(fault("storages of known types", format!("{key:?}")));
        };
        let data = next + size_of::<u64>();
        let count = file[..part.end]
            .get(next..data)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        let end = count
            .and_then(|count| {
                usize::try_from(count)
                    .ok()?
                    .checked_mul(size)?
                    .checked_add(data)
            })
            .filter(|end| *end <= part.end);
        let Some(end) = end else {
            let expected = format!("the storage {key} inside the file");
            let found = match count {
                Some(count) => format!("{count} elements at byte {data} of {}", part.end),
                None => format!("no length at byte {next} of {}", part.end),
            };
            return Err(fault(&expected, found));
        };
        if storages.insert(key.to_owned(), data..end).is_some() {
            return Err(fault("every storage once", format!("{key:?} twice")));
        }
        next = end;
    }
    Ok(Contents {
        pickle: object,
        storages,
    })
}

impl Kind<'_> {
    /// Bytes an element takes, of types with a place in memory.
    fn size(self) -> Option<usize> {
        match self {
            Kind::Known(dtype) => Some(dtype.size()),
            Kind::Unknown("ComplexDoubleStorage") => Some(16),
            Kind::Unknown("ComplexFloatStorage") => Some(8),
            Kind::Unknown("UntypedStorage") => Some(1),
            Kind::Unknown(_) => None,
        }
    }
}
