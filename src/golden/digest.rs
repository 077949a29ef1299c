//! Files against their digests.

use crate::digest::sha256;
use crate::error::{BadInput, Result};
use crate::tensor::MappedFile;

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
