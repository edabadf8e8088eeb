//! Commands: what was asked for, and how it ended.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::waiting::{WaitingFor, standing};

/// A command as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CommandView {
    /// Its name.
    pub id: Uuid,
    /// What was asked for.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::command::CommandKind))]
    pub kind: String,
    /// `waiting`, `running`, `succeeded`, `failed` or `cancelled`.
    pub state: String,
    /// The cluster whose managers carry it out.
    pub cluster: String,
    /// The function it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Number of the revision that it makes or runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i32>,
    /// The process that it makes or ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_id: Option<Uuid>,
    /// The command that a cancellation names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_command: Option<Uuid>,
    /// Name of the token that asked for it.
    pub requested_by: String,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// When it fails unless somebody has begun it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Stable id of why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// How it failed before it was put back into the queue: `{reason, message, remedy, at, requeued_by}`, the newest last.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub failures: Value,
    /// What it waits for, while it has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

impl CommandView {
    /// Whether nothing more will happen to it.
    pub fn has_ended(&self) -> bool {
        self.finished_at.is_some()
    }
}

/// The command of a row of [`standing!`] with the columns of a `COMMAND`.
macro_rules! shown {
    ($row:expr) => {{
        let row = $row;
        let stand = $crate::db::view::Stand {
            cluster: row.cluster.clone(),
            created_at: row.created_at,
            served: row.served,
            unserved_since: row.unserved_since,
            for_image: row.for_image,
            for_registry: row.for_registry,
            away: row.away,
            earlier: row.earlier.zip(row.earlier_at),
        };
        $crate::db::view::CommandView {
            id: row.id,
            kind: row.kind,
            state: row.state,
            cluster: row.cluster,
            function: row.function_name,
            revision: row.revision,
            process_id: row.process_id,
            target_command: row.target_command,
            requested_by: row.requested_by,
            created_at: row.created_at,
            finished_at: row.finished_at,
            reason: row.reason,
            message: row.message,
            remedy: row.remedy,
            deadline: row.deadline,
            failures: row.failures,
            waiting_for: row.finished_at.is_none().then(|| stand.waiting_for()).flatten(),
        }
    }};
}
pub(in crate::db) use shown;

/// One command.
///
/// # Errors
/// When Postgres is away.
pub async fn command(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Option<CommandView>, sqlx::Error> {
    let found = standing!(COMMAND, " where c.id = $1", id)
        .fetch_optional(executor)
        .await?;
    Ok(found.map(|row| shown!(row)))
}
