//! Chunks: lines of a stream, written together with its cursor so that neither can run ahead of the other.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::hole::{self, Room};
use super::stream::{StreamCursor, StreamKey};
use super::{ReportError, Watch, watched};
use crate::log::{Encoded, Gap, Text};

/// Lines of one stream, ready to be stored, and the cursor after them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The process.
    pub process_id: Uuid,
    /// Place in the process's log.
    pub seq: i64,
    /// UTC day, fixed when the chunk was made, so that a repeated write meets its own row.
    pub day: NaiveDate,
    /// The stream.
    pub key: StreamKey,
    /// Lines in it.
    pub lines: i32,
    /// The earliest timestamp in it.
    pub first_at: DateTime<Utc>,
    /// The latest one.
    pub last_at: DateTime<Utc>,
    /// Bytes that were printed, with a newline for each line.
    pub size: i32,
    /// The lines.
    pub text: Encoded,
    /// The stream's cursor before it.
    pub before: StreamCursor,
    /// The same after it.
    pub cursor: StreamCursor,
    /// Holes found before or within it. One that may be filled is before its first line.
    pub gaps: Vec<Gap>,
    /// Its lines that the node has in two pieces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seams: Vec<Seam>,
    /// First timestamp of the newest file of the node before which nothing is missing that is not on record, nanoseconds since
    /// 1970. None: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<i64>,
}

/// Where a rotation cut a line in two: who reads the node's next file alone has its end as a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seam {
    /// Lines of the chunk before it.
    pub line: usize,
    /// Timestamp of its end, nanoseconds since 1970.
    pub at: i64,
    /// Bytes before its end.
    pub offset: usize,
}

/// The last number of each process that no other chunk may have. Processes without one are absent.
///
/// # Errors
/// When Postgres is away.
pub async fn last_seqs(executor: impl PgExecutor<'_>, processes: &[Uuid]) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    Ok(sqlx::query!(
        r#"select process_id as "process_id!", max(seq) as "seq!"
             from (select process_id, seq from log_chunk where process_id = any($1)
                   union all
                   select process_id, reserved_seq from log_stream
                    where process_id = any($1) and reserved_seq is not null) taken
            group by process_id"#,
        processes
    )
    .fetch_all(executor)
    .await?
    .into_iter()
    .map(|row| (row.process_id, row.seq))
    .collect())
}

/// The last line of a stream that is stored and earlier than a time, both in nanoseconds since 1970. None: there is none.
///
/// # Errors
/// When Postgres is away, or a chunk is not what was stored.
pub async fn last_line_before(
    pool: &PgPool,
    process: Uuid,
    key: &StreamKey,
    before: i64,
) -> Result<Option<i64>, sqlx::Error> {
    let time = DateTime::from_timestamp_nanos(before);
    let chunk = sqlx::query!(
        "select encoding, data from log_chunk
          where process_id = $1 and pod_uid = $2 and container = $3 and restart = $4 and first_at < $5
          order by seq desc limit 1",
        process,
        key.pod_uid,
        key.container,
        key.restart,
        time
    )
    .fetch_optional(pool)
    .await?;
    let Some(chunk) = chunk else { return Ok(None) };
    let text = Text::decode(chunk.encoding, chunk.data).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let times = text.lines().filter_map(|line| line.at.timestamp_nanos_opt());
    Ok(times.filter(|at| *at < before).max())
}

/// Stores chunks of many streams and moves their cursors, in one transaction. Repeating it changes nothing.
///
/// # Errors
/// [`ReportError`].
pub async fn append_chunks(pool: &PgPool, watch: &Watch, chunks: &[Chunk]) -> Result<(), ReportError> {
    let mut transaction = watched(pool, watch).await?;
    append(&mut transaction, watch, chunks).await?;
    Ok(transaction.commit().await?)
}

/// Writes chunks of streams that do not have so many lines yet. Answers how many.
pub(super) async fn insert(connection: &mut PgConnection, chunks: &[Chunk], lines: &[i64]) -> Result<u64, sqlx::Error> {
    let column = |pick: fn(&Chunk) -> &StreamKey| chunks.iter().map(pick).collect::<Vec<_>>();
    let keys = column(|chunk| &chunk.key);
    let pods: Vec<String> = keys.iter().map(|key| key.pod_uid.clone()).collect();
    let containers: Vec<String> = keys.iter().map(|key| key.container.clone()).collect();
    let restarts: Vec<i32> = keys.iter().map(|key| key.restart).collect();
    Ok(sqlx::query!(
        // The cursor says whether a chunk is stored already: its row may have been merged into another meanwhile.
        "insert into log_chunk (process_id, seq, day, pod_uid, container, restart, lines, first_at, last_at, data, encoding,
                                size)
         select c.process_id, c.seq, c.day, c.pod_uid, c.container, c.restart, c.lines, c.first_at, c.last_at, c.data,
                c.encoding, c.size
           from unnest($1::uuid[], $2::bigint[], $3::date[], $4::text[], $5::text[], $6::integer[], $7::integer[],
                       $8::timestamptz[], $9::timestamptz[], $10::bytea[], $11::smallint[], $12::integer[], $13::bigint[])
                as c (process_id, seq, day, pod_uid, container, restart, lines, first_at, last_at, data, encoding, size,
                      lines_after)
           join log_stream s using (pod_uid, container, restart)
          where s.lines < c.lines_after
         on conflict do nothing",
        &chunks.iter().map(|chunk| chunk.process_id).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.seq).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.day).collect::<Vec<_>>(),
        &pods,
        &containers,
        &restarts,
        &chunks.iter().map(|chunk| chunk.lines).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.first_at).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.last_at).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.text.data.clone()).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.text.encoding).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.size).collect::<Vec<_>>(),
        lines
    )
    .execute(connection)
    .await?
    .rows_affected())
}

/// The same within a transaction. Answers how many chunks were written. The chunks of a stream are in their order.
pub(super) async fn append(connection: &mut PgConnection, watch: &Watch, chunks: &[Chunk]) -> Result<u64, sqlx::Error> {
    let lines: Vec<i64> = chunks.iter().map(|chunk| chunk.cursor.lines).collect();
    let written = insert(connection, chunks, &lines).await?;
    let has_gaps = chunks.iter().any(|chunk| !chunk.gaps.is_empty());
    let gaps: Result<Vec<Value>, _> = chunks
        .iter()
        .map(|chunk| hole::stored(&chunk.gaps, Room::before(chunk)))
        .collect();
    sqlx::query!(
        // A chunk that is stored again finds the cursor where it left it, and its gaps already there.
        "with chunk as (
             select c.*
               from unnest($1::text[], $2::text[], $3::integer[], $4::bigint[], $5::timestamptz[], $6::timestamptz[], $7::bigint[],
                           $8::jsonb[]) with ordinality
                    as c (pod_uid, container, restart, lines, first_at, last_at, head, gaps, number)
               join log_stream s using (pod_uid, container, restart)
              where s.lines < c.lines),
         moved as (
             select pod_uid, container, restart, max(number) as last, min(first_at) as first_at, max(last_at) as last_at,
                    (array_agg(head order by number desc) filter (where head is not null))[1] as head,
                    case when $9 then (
                        select jsonb_agg(gap.value order by g.number, gap.ordinality)
                          from chunk g cross join jsonb_array_elements(g.gaps) with ordinality as gap
                         where (g.pod_uid, g.container, g.restart) = (c.pod_uid, c.container, c.restart)) end as gaps
               from chunk c group by pod_uid, container, restart)
         update log_stream s
            set cursor_time = ($10::bigint[])[m.last], cursor_count = ($11::integer[])[m.last], cursor_hash = ($12::bytea[])[m.last],
                lines = ($4::bigint[])[m.last], bytes = ($13::bigint[])[m.last], first_at = least(s.first_at, m.first_at),
                last_at = greatest(s.last_at, m.last_at), gaps = case when m.gaps is null then s.gaps else s.gaps || m.gaps end,
                chain = ($14::bytea[])[m.last], spool = $15, head = coalesce(m.head, s.head)
           from moved m
          where (s.pod_uid, s.container, s.restart) = (m.pod_uid, m.container, m.restart)",
        &chunks.iter().map(|chunk| chunk.key.pod_uid.clone()).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.key.container.clone()).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.key.restart).collect::<Vec<_>>(),
        &lines,
        &chunks.iter().map(|chunk| chunk.first_at).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.last_at).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.head).collect::<Vec<_>>() as _,
        &gaps?,
        has_gaps,
        &chunks.iter().map(|chunk| chunk.cursor.time).collect::<Vec<_>>() as _,
        &chunks.iter().map(|chunk| chunk.cursor.count).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.cursor.hash.clone()).collect::<Vec<_>>() as _,
        &chunks.iter().map(|chunk| chunk.cursor.bytes).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.cursor.chain.clone()).collect::<Vec<_>>() as _,
        watch.spool
    )
    .execute(connection)
    .await?;
    Ok(written)
}
