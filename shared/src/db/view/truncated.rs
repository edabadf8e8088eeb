//! What was dropped of the beginning of logs that are longer than they may be.

use sqlx::PgPool;
use uuid::Uuid;

use crate::log::{Cursor, Truncated};

/// What was dropped of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruncatedStream {
    /// The pod.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// Its restart count.
    pub restart: i32,
    /// What was dropped.
    pub truncated: Truncated,
    /// The place in the log of the process after the last line that was dropped.
    pub end: Cursor,
}

/// What was dropped of the streams of a process after a place, the oldest first.
///
/// # Errors
/// When Postgres is away.
pub async fn truncated(pool: &PgPool, process: Uuid, after: Cursor) -> Result<Vec<TruncatedStream>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select pod_uid, container, restart, truncated_lines, truncated_bytes, truncated_at as "at!", truncated_seq as "seq!",
                  truncated_line as "line!"
             from log_stream
            where process_id = $1 and truncated_lines > 0 and (truncated_seq, truncated_line) > ($2::bigint, $3::integer)
            order by attempt, created_at, pod_uid, container, restart"#,
        process,
        after.seq,
        after.line
    )
    .fetch_all(pool)
    .await?;
    let streams = rows.into_iter().map(|row| TruncatedStream {
        pod_uid: row.pod_uid,
        container: row.container,
        restart: row.restart,
        truncated: Truncated {
            lines: row.truncated_lines,
            bytes: row.truncated_bytes,
            last_at: row.at,
        },
        end: Cursor {
            seq: row.seq,
            line: row.line,
        },
    });
    Ok(streams.collect())
}
