//! What is done with the owner's database credentials, never by the running server.

pub mod migrate;
pub mod token;

use std::io::Write;

use crate::Failure;

/// Prints one line, or a document, to standard output.
///
/// # Errors
/// When nobody reads it any more.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    Ok(out.flush()?)
}
