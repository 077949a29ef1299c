//! Files against their digests.

use crate::digest::Digest;
use crate::error::{BadInput, Result};
use crate::tensor::MappedFile;

/// Checks a file against the digest its manifest records.
pub(super) fn verify(file: &MappedFile, expected: &Digest) -> Result<()> {
    let found = expected.algorithm().digest(file);
    if found == *expected {
        return Ok(());
    }
    let shown = |digest: &Digest| format!("{} {}", digest.algorithm().name(), digest.hex());
    let fault = BadInput::new(file.path(), shown(expected), shown(&found));
    Err(fault
        .remedy("the file is not the one that was imported: restore it or import again")
        .into())
}
