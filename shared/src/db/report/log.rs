//! Logs: cursors, chunks and seals, written together so that neither can run ahead of the other.

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::hole::{self, Room};
use super::settle::settle_process;
use super::{ReportError, Watch, watched};
use crate::log::{Encoded, Gap};

/// One run of one container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamKey {
    /// Kubernetes' uid of the pod.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// Its restart count.
    pub restart: i32,
}

/// How far a stream was stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCursor {
    /// Timestamp of the last stored line, nanoseconds since 1970. None: no line yet.
    pub time: Option<i64>,
    /// The earliest timestamp of all stored lines.
    pub first: Option<i64>,
    /// The latest timestamp of all stored lines: later than `time` when the node's clock was set back.
    pub latest: Option<i64>,
    /// Lines stored with exactly that timestamp.
    pub count: i32,
    /// SHA-256 of the last stored line.
    pub hash: Option<Vec<u8>>,
    /// Running hash of all stored lines ([`log::chained`](crate::log::chained)). None: of the first ones it was not kept.
    pub chain: Option<Vec<u8>>,
    /// Lines stored in all.
    pub lines: i64,
    /// Bytes stored in all, without timestamps.
    pub bytes: i64,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Holes found last, in order; none when it was read to the end.
    pub gaps: Vec<Gap>,
    /// How the end of the container was known: `seen`, `inferred` or `unknown`.
    pub end: Cow<'static, str>,
}

/// A stream that is not sealed yet.
#[derive(Clone, Debug)]
pub struct OpenStream {
    /// Which.
    pub key: StreamKey,
    /// The process.
    pub process_id: Uuid,
    /// Attempt of the process.
    pub attempt: i32,
    /// Name of its pod.
    pub pod_name: String,
}

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

/// A stream that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// From where.
    pub cursor: StreamCursor,
    /// The spool of another manager, in which lines after the cursor may be.
    pub spooled_by: Option<Uuid>,
    /// [`Chunk::head`] of what is stored.
    pub head: Option<i64>,
}

/// The cursor of a row of `log_stream`.
macro_rules! stored_cursor {
    ($row:expr) => {
        $crate::db::report::StreamCursor {
            time: $row.cursor_time,
            first: $row.first_at.and_then(|at| at.timestamp_nanos_opt()),
            latest: $row.last_at.and_then(|at| at.timestamp_nanos_opt()),
            count: $row.cursor_count,
            hash: $row.cursor_hash,
            chain: $row.chain.or(($row.lines == 0).then(Vec::new)),
            lines: $row.lines,
            bytes: $row.bytes,
        }
    };
}
pub(super) use stored_cursor;

/// Opens streams, or finds them as they were left, each with its reader ([`set_reader`]). Those that are sealed are absent.
///
/// # Errors
/// [`ReportError`].
pub async fn open_streams(
    pool: &PgPool,
    watch: &Watch,
    streams: &[(OpenStream, &str)],
) -> Result<HashMap<StreamKey, Opened>, ReportError> {
    let keys = || streams.iter().map(|(stream, _)| &stream.key);
    let pods: Vec<String> = keys().map(|key| key.pod_uid.clone()).collect();
    let containers: Vec<String> = keys().map(|key| key.container.clone()).collect();
    let restarts: Vec<i32> = keys().map(|key| key.restart).collect();
    let readers: Vec<String> = streams.iter().map(|(_, reader)| (*reader).to_owned()).collect();
    let mut transaction = watched(pool, watch).await?;
    sqlx::query!(
        "insert into log_stream (process_id, pod_uid, container, restart, attempt, reader, spool)
         select *, $7 from unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::integer[], $6::text[])
         on conflict do nothing",
        &streams.iter().map(|(stream, _)| stream.process_id).collect::<Vec<_>>(),
        &pods,
        &containers,
        &restarts,
        &streams.iter().map(|(stream, _)| stream.attempt).collect::<Vec<_>>(),
        &readers,
        watch.spool
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update log_stream s set reader = r.reader
           from unnest($1::text[], $2::text[], $3::integer[], $4::text[]) as r (pod_uid, container, restart, reader)
          where (s.pod_uid, s.container, s.restart) = (r.pod_uid, r.container, r.restart)
            and s.seal is null and s.reader is distinct from r.reader",
        &pods,
        &containers,
        &restarts,
        &readers
    )
    .execute(&mut *transaction)
    .await?;
    let rows = sqlx::query!(
        "select pod_uid, container, restart, cursor_time, cursor_count, cursor_hash, chain, lines, bytes, first_at, last_at,
                head, spool
           from log_stream
          where (pod_uid, container, restart) in (select * from unnest($1::text[], $2::text[], $3::integer[]))
            and seal is null",
        &pods,
        &containers,
        &restarts
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let opened = rows.into_iter().map(|row| {
        let opened = Opened {
            cursor: stored_cursor!(row),
            spooled_by: row.spool.filter(|spool| watch.spool != Some(*spool)),
            head: row.head,
        };
        let key = StreamKey {
            pod_uid: row.pod_uid,
            container: row.container,
            restart: row.restart,
        };
        (key, opened)
    });
    Ok(opened.collect())
}

/// Shows how a stream is read: `follow`, `poll` or `previous`.
///
/// # Errors
/// [`ReportError`].
pub async fn set_reader(pool: &PgPool, watch: &Watch, key: &StreamKey, reader: &str) -> Result<(), ReportError> {
    let mut transaction = watched(pool, watch).await?;
    sqlx::query!(
        "update log_stream set reader = $4 where pod_uid = $1 and container = $2 and restart = $3",
        key.pod_uid,
        key.container,
        key.restart,
        reader
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// Streams of a cluster that are not sealed.
///
/// # Errors
/// When Postgres is away.
pub async fn unsealed_streams(pool: &PgPool, watch: &Watch) -> Result<Vec<OpenStream>, sqlx::Error> {
    Ok(sqlx::query!(
        "select s.pod_uid, s.container, s.restart, s.process_id, s.attempt, d.name
             from process p join log_stream s on s.process_id = p.id join pod d on d.uid = s.pod_uid
            where p.cluster = $1 and s.seal is null and d.shard = any($2)",
        watch.cluster,
        &watch.shards
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| OpenStream {
        key: StreamKey {
            pod_uid: row.pod_uid,
            container: row.container,
            restart: row.restart,
        },
        process_id: row.process_id,
        attempt: row.attempt,
        pod_name: row.name,
    })
    .collect())
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
                last_at = greatest(s.last_at, m.last_at), gaps = s.gaps || coalesce(m.gaps, '[]'),
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

/// Seals a stream: from here on its pod may go. False: it was sealed before.
///
/// # Errors
/// [`ReportError`].
pub async fn seal_stream(pool: &PgPool, watch: &Watch, key: &StreamKey, seal: &Seal) -> Result<bool, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let sealed = set_seal(&mut transaction, watch, key, seal).await?;
    transaction.commit().await?;
    Ok(sealed)
}

/// The same within a transaction.
pub(super) async fn set_seal(
    connection: &mut PgConnection,
    watch: &Watch,
    key: &StreamKey,
    seal: &Seal,
) -> Result<bool, sqlx::Error> {
    let room = if seal.gaps.iter().any(Gap::is_spooled) {
        hole::at_end(connection, key).await?
    } else {
        None
    };
    let reserved = room.as_ref().map(|room| room.last);
    let gaps = hole::stored(&seal.gaps, room)?;
    let process = sqlx::query_scalar!(
        "update log_stream
            set gaps = gaps || $4,
                seal = case when truncated_lines > 0 then 'truncated' when gaps || $4 = '[]' then 'complete' else 'gap' end,
                seal_reason = case when truncated_lines > 0 then 'log_limit' else (gaps || $4) -> -1 ->> 'reason' end, seal_end = $5, sealed_at = now(),
                reserved_seq = coalesce($6, reserved_seq)
          where pod_uid = $1 and container = $2 and restart = $3 and seal is null
         returning process_id",
        key.pod_uid,
        key.container,
        key.restart,
        gaps,
        &seal.end,
        reserved
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(process) = process {
        settle_process(connection, watch, process).await?;
    }
    Ok(process.is_some())
}
