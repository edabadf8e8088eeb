//! What a preflight found out about a cluster.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One look at everything that a cluster must have before functions run on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Preflight {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// What was found, in the order of the checks.
    pub findings: Vec<Finding>,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Finding {
    /// Stable name of the check: `network_policy`.
    pub check: String,
    /// How it stands.
    pub status: FindingStatus,
    /// What was seen.
    pub found: String,
    /// What to do about it. Empty when nothing is to be done.
    pub remedy: String,
}

/// How a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FindingStatus {
    /// As it should be.
    Ok,
    /// Functions run, and something holds less than it could.
    Warning,
    /// Functions do not run, or the manager may do what it must not.
    Error,
    /// It could not be found out.
    Unknown,
}

impl FindingStatus {
    /// The spelling in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Unknown => "unknown",
        }
    }
}

impl Finding {
    /// Nothing is to be done.
    pub fn ok(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, FindingStatus::Ok, found, "")
    }

    /// A finding of any status.
    pub fn new(check: &str, status: FindingStatus, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            status,
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}
