//! What functions printed. A place in a log is a [`Cursor`]: a chunk and a count of its lines.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::log::{Cursor, MOST_PARTS, Span, Text, Undecodable};

/// A stored chunk and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Place in the process's log.
    pub span: Span,
    /// The pod.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// Its restart count.
    pub restart: i32,
    /// The attempt of the process.
    pub attempt: i32,
    /// The lines.
    pub text: Text,
    /// Known holes in the log of its container's run: a list of [`crate::log::Gap`].
    pub gaps: Value,
}

/// A chunk as it is stored.
struct Row {
    seq: i64,
    lines: i32,
    parts: Option<Vec<i32>>,
    pod_uid: String,
    container: String,
    restart: i32,
    attempt: i32,
    encoding: i16,
    data: Vec<u8>,
    gaps: Value,
}

impl Row {
    fn read(self) -> Result<LogChunk, sqlx::Error> {
        Ok(LogChunk {
            span: Span {
                seq: self.seq,
                lines: self.lines,
                parts: self.parts,
            },
            pod_uid: self.pod_uid,
            container: self.container,
            restart: self.restart,
            attempt: self.attempt,
            text: Text::decode(self.encoding, self.data).map_err(unreadable)?,
            gaps: self.gaps,
        })
    }
}

fn unreadable(error: Undecodable) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
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
    /// Number of the newest transition of the process.
    pub transitions: i64,
}

impl LogProgress {
    /// Nothing can come any more.
    pub fn has_ended(&self) -> bool {
        self.gone && self.open_streams == 0
    }
}

/// Up to `limit` chunks that hold lines after `from`, none after number `until`, in order.
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
    // The numbers of a merged chunk reach back from its own, by no more than `MOST_PARTS`.
    let rows = sqlx::query_as!(
        Row,
        r#"select c.seq as "seq!", c.lines as "lines!", c.parts, c.pod_uid as "pod_uid!", c.container as "container!",
                  c.restart as "restart!", coalesce(s.attempt, 1) as "attempt!", c.encoding as "encoding!",
                  c.data as "data!", coalesce(s.gaps, '[]') as "gaps!"
             from log_chunk c
             left join log_stream s on s.pod_uid = c.pod_uid and s.container = c.container and s.restart = c.restart
            where c.process_id = $1 and c.seq >= $2 and (c.seq > $2 or coalesce(c.parts[cardinality(c.parts)], c.lines) > $3)
              and c.seq < $4 and c.seq - coalesce(cardinality(c.parts), 1) < $9
              and ($6::text is null or c.container = $6)
              and ($7::timestamptz is null or c.last_at >= $7) and ($8::timestamptz is null or c.first_at <= $8)
            order by c.seq
            limit $5"#,
        process,
        from.seq,
        from.line,
        until.saturating_add(MOST_PARTS),
        limit,
        filter.container,
        filter.since,
        filter.until,
        until
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Up to `limit` chunks that hold lines before number `before`, the last ones first.
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
    let rows = sqlx::query_as!(
        Row,
        r#"select c.seq as "seq!", c.lines as "lines!", c.parts, c.pod_uid as "pod_uid!", c.container as "container!",
                  c.restart as "restart!", 1 as "attempt!", c.encoding as "encoding!", c.data as "data!",
                  '[]'::jsonb as "gaps!"
             from log_chunk c
            where c.process_id = $1 and c.seq < $2 and c.seq - coalesce(cardinality(c.parts), 1) < $7::bigint - 1
              and ($4::text is null or c.container = $4)
              and ($5::timestamptz is null or c.last_at >= $5) and ($6::timestamptz is null or c.first_at <= $6)
            order by c.seq desc
            limit $3"#,
        process,
        before.saturating_add(MOST_PARTS),
        limit,
        filter.container,
        filter.since,
        filter.until,
        before
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// The place after the last stored line.
///
/// # Errors
/// When Postgres is away.
pub async fn log_end(pool: &PgPool, process: Uuid) -> Result<Cursor, sqlx::Error> {
    let last = sqlx::query_as!(
        Span,
        "select seq, lines, parts from log_chunk where process_id = $1 order by seq desc limit 1",
        process
    )
    .fetch_optional(pool)
    .await?;
    Ok(last.map(|span| span.end()).unwrap_or_default())
}

/// The place before the last `lines` lines.
///
/// # Errors
/// When Postgres is away.
pub async fn tail_start(pool: &PgPool, process: Uuid, lines: i64) -> Result<Cursor, sqlx::Error> {
    let first = sqlx::query!(
        r#"select seq, lines, parts, total - $2 as "skip!"
             from (select seq, lines, parts, sum(lines) over (order by seq desc) as total
                     from log_chunk where process_id = $1) counted
            where total >= $2 order by seq desc limit 1"#,
        process,
        lines
    )
    .fetch_optional(pool)
    .await?;
    Ok(first
        .map(|row| place(row.seq, row.lines, row.parts, row.skip))
        .unwrap_or_default())
}

fn place(seq: i64, lines: i32, parts: Option<Vec<i32>>, index: i64) -> Cursor {
    Span { seq, lines, parts }.place(usize::try_from(index).unwrap_or_default())
}

/// The place `lines` lines after `from`. None: there are fewer.
///
/// # Errors
/// When Postgres is away.
pub async fn advance(pool: &PgPool, process: Uuid, from: Cursor, lines: i64) -> Result<Option<Cursor>, sqlx::Error> {
    let last = sqlx::query!(
        // Of the chunk that `from` is in, what is not after it does not count.
        r#"select seq, lines, parts, lines - (total - $4) as "index!"
             from (select c.seq, c.lines, c.parts, sum(c.lines - read.lines) over (order by c.seq) as total
                     from log_chunk c
                    cross join lateral (
                        select case when c.seq - coalesce(cardinality(c.parts), 1) >= $2 then 0
                                    else coalesce((select sum(n) from unnest(c.parts[:part - 1]) n), 0)
                                         + least($3, coalesce(c.parts[part], c.lines)) end::integer as lines
                          from (select ($2::bigint - c.seq + cardinality(c.parts))::integer as part) p) read
                    where c.process_id = $1 and c.seq >= $2) counted
            where total >= $4 order by seq limit 1"#,
        process,
        from.seq,
        from.line,
        lines
    )
    .fetch_optional(pool)
    .await?;
    Ok(last.map(|row| place(row.seq, row.lines, row.parts, row.index)))
}

/// The last lines of a log for people: few, and short. What is not UTF-8 is replaced.
pub(super) async fn last_lines(pool: &PgPool, process: Uuid) -> Result<Vec<String>, sqlx::Error> {
    const LINES: usize = 10;
    let mut ends = sqlx::query!(
        r#"select encoding as "encoding!", data as "data!"
             from (select seq, encoding, data, sum(lines) over (order by seq desc) - lines as newer
                     from (select seq, lines, encoding, data from log_chunk
                            where process_id = $1 order by seq desc limit $2) newest) counted
            where newer < $2 order by seq desc"#,
        process,
        LINES as i64
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| Text::decode(row.encoding, row.data).map_err(unreadable))
    .collect::<Result<Vec<_>, _>>()?;
    if ends.is_empty() {
        ends.extend(kept(pool, process).await?);
    }
    let newest_first = ends.iter().flat_map(|text| text.lines().rev());
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
pub async fn kept(pool: &PgPool, process: Uuid) -> Result<Option<Text>, sqlx::Error> {
    let kept = sqlx::query!("select encoding, data from log_kept where process_id = $1", process)
        .fetch_optional(pool)
        .await?;
    kept.map(|row| Text::decode(row.encoding, row.data).map_err(unreadable))
        .transpose()
}

/// Whether the log of a process can still grow. None: there is no such process.
///
/// # Errors
/// When Postgres is away.
pub async fn log_progress(pool: &PgPool, process: Uuid) -> Result<Option<LogProgress>, sqlx::Error> {
    sqlx::query_as!(
        LogProgress,
        r#"select p.lifecycle = 'gone' as "gone!",
                  (select count(*) from log_stream s where s.process_id = p.id and s.seal is null) as "open_streams!",
                  p.last_event as transitions
             from process p where p.id = $1"#,
        process
    )
    .fetch_optional(pool)
    .await
}
