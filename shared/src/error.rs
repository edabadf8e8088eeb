//! Bad input, named so that its sender can mend it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One field that was refused, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Invalid {
    /// Path of the field, for example `spec.env[0].name`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl Invalid {
    /// A refused field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.field, self.problem, self.remedy)
    }
}

/// Collects every refused field, so that a sender learns of all of them at once.
#[derive(Debug, Default)]
pub struct Checker(Vec<Invalid>);

impl Checker {
    /// Refuses `field` unless `holds`.
    pub fn check(&mut self, holds: bool, field: impl Into<String>, problem: impl Into<String>, remedy: &str) {
        if !holds {
            self.0.push(Invalid::new(field, problem, remedy));
        }
    }

    /// All that was refused, or nothing.
    ///
    /// # Errors
    /// The refused fields, when there are any.
    pub fn finish(self) -> Result<(), Vec<Invalid>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}
