//! What functions printed. A place in a log is a [`Cursor`]: a chunk and a count of its lines.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::log::{Cursor, lines};

/// A stored chunk and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Place in the process's log.
    pub seq: i64,
    /// The pod.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// Its restart count.
    pub restart: i32,
    /// The attempt of the process.
    pub attempt: i32,
    /// The lines ([`crate::log::lines`]).
    pub data: Vec<u8>,
    /// Known holes in the log of its container's run: a list of [`crate::log::Gap`].
    pub gaps: Value,
}

/// Which chunks can hold lines that are asked for. What is none does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkFilter {
    /// Of this container.
    pub container: Option<String>,
    /// Not earlier than this.
    pub since: Option<DateTime<Utc>>,
    /// Earlier than this.
    pub until: Option<DateTime<Utc>>,
}

/// Whether a log can still grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogProgress {
    /// Nothing of the process is left in the cluster.
    pub gone: bool,
    /// Streams that are not sealed.
    pub open_streams: i64,
}

/// Up to `limit` chunks that hold lines after `from`, none after chunk `until`, in order.
///
/// # Errors
/// When Postgres is away.
pub async fn chunks(
    pool: &PgPool,
    process: Uuid,
    from: Cursor,
    until: i64,
    filter: &ChunkFilter,
    limit: i64,
) -> Result<Vec<LogChunk>, sqlx::Error> {
    sqlx::query_as!(
        LogChunk,
        r#"select c.seq as "seq!", c.pod_uid as "pod_uid!", c.container as "container!", c.restart as "restart!",
                  coalesce(s.attempt, 1) as "attempt!", c.data as "data!", coalesce(s.gaps, '[]') as "gaps!"
             from log_chunk c
             left join log_stream s on s.pod_uid = c.pod_uid and s.container = c.container and s.restart = c.restart
            where c.process_id = $1 and c.seq >= $2 and (c.seq > $2 or c.lines > $3) and c.seq <= $4
              and ($6::text is null or c.container = $6)
              and ($7::timestamptz is null or c.last_at >= $7) and ($8::timestamptz is null or c.first_at <= $8)
            order by c.seq
            limit $5"#,
        process,
        from.seq,
        from.line,
        until,
        limit,
        filter.container,
        filter.since,
        filter.until
    )
    .fetch_all(pool)
    .await
}

/// Up to `limit` chunks before chunk `before`, the last ones first.
///
/// # Errors
/// When Postgres is away.
pub async fn chunks_before(
    pool: &PgPool,
    process: Uuid,
    before: i64,
    filter: &ChunkFilter,
    limit: i64,
) -> Result<Vec<LogChunk>, sqlx::Error> {
    sqlx::query_as!(
        LogChunk,
        r#"select c.seq as "seq!", c.pod_uid as "pod_uid!", c.container as "container!", c.restart as "restart!",
                  1 as "attempt!", c.data as "data!", '[]'::jsonb as "gaps!"
             from log_chunk c
            where c.process_id = $1 and c.seq < $2
              and ($4::text is null or c.container = $4)
              and ($5::timestamptz is null or c.last_at >= $5) and ($6::timestamptz is null or c.first_at <= $6)
            order by c.seq desc
            limit $3"#,
        process,
        before,
        limit,
        filter.container,
        filter.since,
        filter.until
    )
    .fetch_all(pool)
    .await
}

/// The place after the last stored line.
///
/// # Errors
/// When Postgres is away.
pub async fn log_end(pool: &PgPool, process: Uuid) -> Result<Cursor, sqlx::Error> {
    let last = sqlx::query!(
        "select seq, lines from log_chunk where process_id = $1 order by seq desc limit 1",
        process
    )
    .fetch_optional(pool)
    .await?;
    Ok(last
        .map(|row| Cursor {
            seq: row.seq,
            line: row.lines,
        })
        .unwrap_or_default())
}

/// The place before the last `lines` lines.
///
/// # Errors
/// When Postgres is away.
pub async fn tail_start(pool: &PgPool, process: Uuid, lines: i64) -> Result<Cursor, sqlx::Error> {
    let first = sqlx::query!(
        r#"select seq, (total - $2)::integer as "skip!"
             from (select seq, sum(lines) over (order by seq desc) as total from log_chunk where process_id = $1) counted
            where total >= $2 order by seq desc limit 1"#,
        process,
        lines
    )
    .fetch_optional(pool)
    .await?;
    Ok(first
        .map(|row| Cursor {
            seq: row.seq,
            line: row.skip,
        })
        .unwrap_or_default())
}

/// The place `lines` lines after `from`. None: there are fewer.
///
/// # Errors
/// When Postgres is away.
pub async fn advance(pool: &PgPool, process: Uuid, from: Cursor, lines: i64) -> Result<Option<Cursor>, sqlx::Error> {
    let last = sqlx::query!(
        r#"select seq, (lines - (total - $4))::integer as "line!"
             from (select seq, lines, sum(lines - case when seq = $2 then $3 else 0 end) over (order by seq) as total
                     from log_chunk where process_id = $1 and seq >= $2) counted
            where total >= $4 order by seq limit 1"#,
        process,
        from.seq,
        from.line,
        lines
    )
    .fetch_optional(pool)
    .await?;
    Ok(last.map(|row| Cursor {
        seq: row.seq,
        line: row.line,
    }))
}

/// The last lines of a log for people: few, and short. What is not UTF-8 is replaced.
pub(super) async fn last_lines(pool: &PgPool, process: Uuid) -> Result<Vec<String>, sqlx::Error> {
    const LINES: usize = 10;
    // The end of a chunk is enough: what it cuts in two has no timestamp and is left out.
    let mut ends = sqlx::query_scalar!(
        r#"select substring(data from greatest(1, length(data) - 16383)) as "data!"
             from log_chunk where process_id = $1 order by seq desc limit $2"#,
        process,
        LINES as i64
    )
    .fetch_all(pool)
    .await?;
    if ends.is_empty() {
        ends.extend(kept(pool, process).await?);
    }
    let newest_first = ends.iter().flat_map(|data| lines(data).rev());
    let mut last: Vec<String> = newest_first.take(LINES).map(|line| shortened(line.content)).collect();
    last.reverse();
    Ok(last)
}

/// The last characters of a line.
fn shortened(content: &[u8]) -> String {
    const CHARACTERS: usize = 500;
    let text = String::from_utf8_lossy(content);
    let skipped = text.chars().count().saturating_sub(CHARACTERS);
    text.chars().skip(skipped).collect()
}

/// The end of the log, when its chunks were dropped and it was its function's newest run.
///
/// # Errors
/// When Postgres is away.
pub async fn kept(pool: &PgPool, process: Uuid) -> Result<Option<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar!("select data from log_kept where process_id = $1", process)
        .fetch_optional(pool)
        .await
}

/// Whether the log of a process can still grow. None: there is no such process.
///
/// # Errors
/// When Postgres is away.
pub async fn log_progress(pool: &PgPool, process: Uuid) -> Result<Option<LogProgress>, sqlx::Error> {
    sqlx::query_as!(
        LogProgress,
        r#"select p.lifecycle = 'gone' as "gone!",
                  (select count(*) from log_stream s where s.process_id = p.id and s.seal is null) as "open_streams!"
             from process p where p.id = $1"#,
        process
    )
    .fetch_optional(pool)
    .await
}
