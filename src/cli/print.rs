//! Standard output.

use crate::tensor::unchanged;
use anyhow::Result;
use std::io::{ErrorKind, Write};

/// Prints a whole text, without colours where they do not belong, unless a file that it is of changed since. A reader
/// that has seen enough and went away is no error, and changes no verdict.
pub(super) fn print(text: &str) -> Result<()> {
    unchanged()?;
    let mut out = anstream::stdout();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match printed {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// Says something on standard error. Where that cannot be written to, the exit code says it all.
pub(super) fn tell(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}
