//! Commands: what was asked for, and how it ended.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::waiting::{WaitingFor, waiting};

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

/// One command.
///
/// # Errors
/// When Postgres is away.
pub async fn command(pool: &PgPool, id: Uuid) -> Result<Option<CommandView>, sqlx::Error> {
    // `!`: sqlx reads from the plan what may be null, and the plan of a left join depends on how full the tables are.
    let found = sqlx::query!(
        r#"select c.id as "id!", c.kind as "kind!",
                  case when l.seq is null or c.state <> 'waiting' then c.state else 'running' end as "state!",
                  c.cluster as "cluster!", c.function_name, v.number as "revision?", c.process_id, c.target_command,
                  c.requested_by as "requested_by!", c.created_at as "created_at!", c.finished_at, c.reason, c.message, c.remedy,
                  c.created_at + make_interval(secs => c.deadline_seconds) as deadline, c.failures as "failures!"
             from command c left join command_lease l on l.seq = c.seq left join revision v on v.id = c.revision_id
            where c.id = $1"#,
        id
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let waiting_for = if row.finished_at.is_none() {
        waiting(pool, &[id]).await?.remove(&id)
    } else {
        None
    };
    Ok(Some(CommandView {
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
        waiting_for,
    }))
}
