//! Why the demo did not see what it should have seen.

use thiserror::Error;

/// What went wrong, and where to look next.
#[derive(Debug, Error)]
#[error("{what}")]
pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) look: String,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, look: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            look: look.into(),
        }
    }
}

/// Fails unless something holds.
pub(crate) fn check(holds: bool, what: impl FnOnce() -> String, look: impl Into<String>) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::new(what(), look)) }
}
