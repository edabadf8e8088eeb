//! What is left of a log whose day was dropped.

use octopus_shared::db::view::{self, LogChunk, LogStreamView};
use octopus_shared::log::{Span, Text};
use sqlx::PgPool;
use uuid::Uuid;

/// The end of the log as a chunk before all others.
pub(super) async fn kept(pool: &PgPool, process: Uuid) -> Result<Option<LogChunk>, sqlx::Error> {
    let Some(text) = view::kept(pool, process).await? else {
        return Ok(None);
    };
    let streams = view::log_streams(pool, process).await?;
    Ok(Some(LogChunk {
        span: Span {
            seq: 0,
            lines: i32::try_from(text.count()).unwrap_or(i32::MAX),
            parts: None,
        },
        pod_uid: String::new(),
        container: container(&streams, &text).unwrap_or_default(),
        restart: 0,
        attempt: 1,
        text,
        gaps: serde_json::json!([]),
    }))
}

/// The container that it is of: the only one that was read, or else the one whose last line is the last of it. None: nobody knows.
fn container(streams: &[LogStreamView], text: &Text) -> Option<String> {
    // Postgres has microseconds.
    let last = text.lines().map(|line| line.at.timestamp_micros()).max();
    let is_alone = streams.windows(2).all(|pair| pair[0].container == pair[1].container);
    let mut its = streams
        .iter()
        .filter(|stream| is_alone || stream.last_at.map(|at| at.timestamp_micros()) == last);
    its.next().map(|stream| stream.container.clone())
}
