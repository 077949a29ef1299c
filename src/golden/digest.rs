//! SHA-256 of files, as `sha256sum` prints it.

use crate::error::{BadInput, Result};
use crate::tensor::MappedFile;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// The digest in lower-case hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// Checks a file against the digest its manifest records.
pub(super) fn verify(file: &MappedFile, expected: &str) -> Result<()> {
    let found = sha256(file);
    if found == expected {
        return Ok(());
    }
    let fault = BadInput::new(
        file.path(),
        format!("sha256 {expected}"),
        format!("sha256 {found}"),
    );
    Err(fault
        .remedy("the file is not the one that was imported: restore it or import again")
        .into())
}
