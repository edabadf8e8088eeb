//! Pods of a process, and how complete their logs are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use crate::log::Truncated;

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
    /// Kubernetes' warnings about it and that it was preempted, the newest last: 10 at most.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::pod::PodEvent>))]
    pub events: Value,
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
    /// Lines stored, with those that were dropped since and those that were filled into holes.
    pub lines: i64,
    /// Bytes of these lines, without timestamps.
    pub bytes: i64,
    /// Running hash of the stored lines, as anybody can make it of what is read: for each line SHA-256 of the hash before it (32
    /// bytes, nothing before the first line), the line, and a newline. Null: none was kept of its first lines, or lines were filled into
    /// a hole.
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
    /// What was dropped of its beginning, because the log of its process was longer than it may be.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Truncated>))]
    pub truncated: Option<Json<Truncated>>,
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
        "select uid, name, attempt, node, phase, state, reason, message, exit_code, restart_count, containers, events, created_at,
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
    let mut streams = sqlx::query_as!(
        LogStreamView,
        r#"select pod_uid, container, restart, attempt, reader, lines + filled_lines as "lines!", bytes + filled_bytes as "bytes!",
                case when filled_bytes = 0 then encode(chain, 'hex') end as sha256, first_at, last_at, seal, seal_reason, seal_end,
                gaps, sealed_at,
                case when truncated_lines > 0 then
                    jsonb_build_object('lines', truncated_lines, 'bytes', truncated_bytes, 'last_at', truncated_at)
                end as "truncated: Json<Truncated>"
           from log_stream where process_id = $1
          order by attempt, min(created_at) over (partition by pod_uid), pod_uid, restart, container"#,
        process
    )
    .fetch_all(pool)
    .await?;
    // What is known of lines that may come is of no use to others, nor is what the rate of printing is told by.
    let gaps = streams.iter_mut().filter_map(|stream| stream.gaps.as_array_mut());
    for gap in gaps.flatten().filter_map(Value::as_object_mut) {
        gap.retain(|name, _| !matches!(name.as_str(), "room" | "time"));
    }
    Ok(streams)
}
