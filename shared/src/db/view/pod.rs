//! Pods of a process, and how complete their logs are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

/// A pod as it was last seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PodView {
    /// Kubernetes' uid.
    pub uid: String,
    /// Its name in the function namespace.
    pub name: String,
    /// The attempt of the process that it was made for.
    pub attempt: i32,
    /// The node it was scheduled to.
    pub node: Option<String>,
    /// Kubernetes' own phase.
    pub phase: String,
    /// What that means for the process.
    pub state: String,
    /// Stable id of why.
    pub reason: Option<String>,
    /// Kubernetes' own words.
    pub message: Option<String>,
    /// Exit code of the function's container, once known.
    pub exit_code: Option<i32>,
    /// Restarts of the function's container.
    pub restart_count: i32,
    /// Container statuses: name, id, state, restart count, times.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub containers: Value,
    /// When it was created, by the cluster's clock.
    pub created_at: DateTime<Utc>,
    /// When its containers were seen to have ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// When it was seen to be gone.
    pub gone_at: Option<DateTime<Utc>>,
}

/// The log of one run of one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogStreamView {
    /// The pod.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// Its restart count: each run is a stream of its own.
    pub restart: i32,
    /// The attempt of the process.
    pub attempt: i32,
    /// How it is read: `follow`, `poll` or `previous`.
    pub reader: String,
    /// Lines stored.
    pub lines: i64,
    /// Bytes stored, without timestamps.
    pub bytes: i64,
    /// Running hash of the stored lines, as anybody can make it of what is read: for each line SHA-256 of the hash before it (32
    /// bytes, nothing before the first line), the line, and a newline. Null: none was kept of its first lines.
    pub sha256: Option<String>,
    /// Timestamp of the first line.
    pub first_at: Option<DateTime<Utc>>,
    /// Timestamp of the last line.
    pub last_at: Option<DateTime<Utc>>,
    /// Null while open; `complete`: every byte is there; `gap`: some are known to be missing; `truncated`: cut by a cap.
    pub seal: Option<String>,
    /// Why the seal is not `complete`.
    pub seal_reason: Option<String>,
    /// How the end of the container was known: `seen`, `inferred` or `unknown`.
    pub seal_end: Option<String>,
    /// Known holes: `{from, to, reason}`, times in nanoseconds since 1970, null where unknown.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub gaps: Value,
    /// When it was sealed.
    pub sealed_at: Option<DateTime<Utc>>,
}

/// The pods of a process, the oldest first.
///
/// # Errors
/// When Postgres is away.
pub async fn pods(pool: &PgPool, process: Uuid) -> Result<Vec<PodView>, sqlx::Error> {
    sqlx::query_as!(
        PodView,
        "select uid, name, attempt, node, phase, state, reason, message, exit_code, restart_count, containers, created_at,
                ended_at, gone_at
           from pod where process_id = $1 order by attempt, created_at, uid",
        process
    )
    .fetch_all(pool)
    .await
}

/// The log streams of a process, the oldest first.
///
/// # Errors
/// When Postgres is away.
pub async fn log_streams(pool: &PgPool, process: Uuid) -> Result<Vec<LogStreamView>, sqlx::Error> {
    sqlx::query_as!(
        LogStreamView,
        "select pod_uid, container, restart, attempt, reader, lines, bytes, encode(chain, 'hex') as sha256, first_at, last_at, seal, seal_reason, seal_end,
                gaps, sealed_at
           from log_stream where process_id = $1 order by attempt, created_at, pod_uid, container, restart",
        process
    )
    .fetch_all(pool)
    .await
}
