//! Chunks: lines of a stream, written together with its cursor so that neither can run ahead of the other.

use std::collections::{BTreeSet, HashMap};

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
        // The newest entry of an index for each of them.
        r#"select id as "id!", greatest((select max(seq) from log_chunk where process_id = id),
                                     (select max(reserved_seq) from log_stream where process_id = id)) as seq
             from unnest($1::uuid[]) id"#,
        processes
    )
    .fetch_all(executor)
    .await?
    .into_iter()
    .filter_map(|row| Some((row.id, row.seq?)))
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

/// Stores chunks of many streams and moves their cursors, in one transaction. Repeating it changes nothing. The chunks of a
/// stream are in their order.
///
/// # Errors
/// [`ReportError`]: also [`ReportError::Fenced`] when lines before a chunk are not stored any more, as after a failover to a
/// standby that did not have them yet; who reads the log has to begin again from what is stored.
pub async fn append_chunks(pool: &PgPool, watch: &Watch, chunks: &[Chunk]) -> Result<(), ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let new = new_chunks(&mut transaction, chunks).await?.ok_or(ReportError::Fenced)?;
    if append(&mut transaction, watch, chunks).await? != new {
        return Err(numbers_taken().into());
    }
    Ok(transaction.commit().await?)
}

/// Something that was written before has been committed just now: with the next look it is seen.
pub(super) fn numbers_taken() -> sqlx::Error {
    sqlx::Error::Protocol("the numbers of chunks were taken meanwhile".into())
}

/// How many of these chunks are not stored yet. None: lines before one of them are missing. Their streams are locked: what is
/// still being written of them is waited for. Chunks of processes that were deleted are nobody's.
async fn new_chunks(connection: &mut PgConnection, chunks: &[Chunk]) -> Result<Option<u64>, sqlx::Error> {
    let keys: BTreeSet<&StreamKey> = chunks.iter().map(|chunk| &chunk.key).collect();
    let rows = sqlx::query!(
        "select pod_uid, container, restart, lines from log_stream
          where (pod_uid, container, restart) in (select * from unnest($1::text[], $2::text[], $3::integer[]))
          order by pod_uid, container, restart for update",
        &keys.iter().map(|key| key.pod_uid.clone()).collect::<Vec<_>>(),
        &keys.iter().map(|key| key.container.clone()).collect::<Vec<_>>(),
        &keys.iter().map(|key| key.restart).collect::<Vec<_>>()
    )
    .fetch_all(&mut *connection)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let key = StreamKey {
            pod_uid: row.pod_uid,
            container: row.container,
            restart: row.restart,
        };
        (key, (row.lines, row.lines))
    });
    let mut streams: HashMap<StreamKey, (i64, i64)> = stored.collect();
    let (mut new, mut streamless) = (0, Vec::new());
    for chunk in chunks {
        let Some((stored, lines)) = streams.get_mut(&chunk.key) else {
            streamless.push(chunk.process_id);
            continue;
        };
        if *lines < chunk.before.lines {
            return Ok(None);
        }
        new += u64::from(*stored < chunk.cursor.lines);
        *lines = (*lines).max(chunk.cursor.lines);
    }
    let misses = !streamless.is_empty()
        && sqlx::query_scalar!(
            r#"select exists (select from process where id = any($1)) as "exists!""#,
            &streamless
        )
        .fetch_one(connection)
        .await?;
    Ok((!misses).then_some(new))
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

/// The same within a transaction, whatever is stored. Answers how many chunks were written.
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
