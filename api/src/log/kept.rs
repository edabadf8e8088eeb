//! What is left of a log whose day was dropped.

use octopus_shared::db::view::{self, LogChunk};
use octopus_shared::log::Span;
use sqlx::PgPool;
use uuid::Uuid;

/// The end of the log as a chunk before all others.
pub(super) async fn kept(pool: &PgPool, process: Uuid) -> Result<Option<LogChunk>, sqlx::Error> {
    let text = view::kept(pool, process).await?;
    Ok(text.map(|text| LogChunk {
        span: Span {
            seq: 0,
            lines: i32::try_from(text.count()).unwrap_or(i32::MAX),
            parts: None,
        },
        pod_uid: String::new(),
        container: String::new(),
        restart: 0,
        attempt: 1,
        text,
        gaps: serde_json::json!([]),
    }))
}
