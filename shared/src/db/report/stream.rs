//! Streams: one run of one container each, from its opening to its seal.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::hole;
use super::settle::settle_process;
use super::{ReportError, Watch, watched};
use crate::log::Gap;

/// Runs that nobody read and that are put on record at once, at most.
const UNREAD: i32 = 100;

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

/// A stream that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// From where.
    pub cursor: StreamCursor,
    /// The spool of another manager, in which lines after the cursor may be.
    pub spooled_by: Option<Uuid>,
    /// [`Chunk::head`](super::Chunk::head) of what is stored.
    pub head: Option<i64>,
    /// Nanoseconds between stored lines that are in holes on record.
    pub missed: i64,
    /// When reading began, by the clock of Postgres: nanoseconds since 1970.
    pub since: Option<i64>,
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
    let attempts: Vec<i32> = streams.iter().map(|(stream, _)| stream.attempt).collect();
    let processes: Vec<Uuid> = streams.iter().map(|(stream, _)| stream.process_id).collect();
    let mut transaction = watched(pool, watch).await?;
    if restarts.iter().any(|restart| *restart > 1) {
        record_unread(&mut transaction, &processes, &pods, &containers, &restarts, &attempts).await?;
    }
    sqlx::query!(
        "insert into log_stream (process_id, pod_uid, container, restart, attempt, reader, spool)
         select *, $7 from unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::integer[], $6::text[])
         on conflict do nothing",
        &processes,
        &pods,
        &containers,
        &restarts,
        &attempts,
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
        r#"select pod_uid, container, restart, cursor_time, cursor_count, cursor_hash, chain, lines, bytes, first_at, last_at,
                  head, spool, created_at,
                  (select coalesce(sum(coalesce((gap ->> 'time')::bigint,
                                               greatest((gap ->> 'to')::bigint - (gap ->> 'from')::bigint, 0))), 0)::bigint
                     from jsonb_array_elements(gaps) gap) as "missed!"
             from log_stream
            where (pod_uid, container, restart) in (select * from unnest($1::text[], $2::text[], $3::integer[]))
              and seal is null"#,
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
            missed: row.missed,
            since: row.created_at.timestamp_nanos_opt(),
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

/// Puts runs on record that came and went while nobody watched: a node has the log of the newest run and of the one before it. Of
/// many, the newest [`UNREAD`] are.
async fn record_unread(
    connection: &mut PgConnection,
    processes: &[Uuid],
    pods: &[String],
    containers: &[String],
    restarts: &[i32],
    attempts: &[i32],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"insert into log_stream (process_id, pod_uid, container, restart, attempt, reader, gaps, seal, seal_reason, seal_end, sealed_at)
           select r.process_id, r.pod_uid, r.container, unread, r.attempt, 'previous',
                  '[{"from": null, "to": null, "reason": "restarted"}]', 'gap', 'restarted', 'unknown', now()
             from unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::integer[])
                  as r (process_id, pod_uid, container, restart, attempt)
            cross join lateral (
                      select coalesce(max(s.restart) + 1, 0) as first from log_stream s
                       where s.pod_uid = r.pod_uid and s.container = r.container and s.restart < r.restart) known
            cross join generate_series(greatest(known.first, r.restart - 1 - $6), r.restart - 2) unread
           on conflict do nothing"#,
        processes,
        pods,
        containers,
        restarts,
        attempts,
        UNREAD
    )
    .execute(connection)
    .await?;
    Ok(())
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

/// Seals a stream behind so many lines: from here on its pod may go. False: it was sealed before.
///
/// # Errors
/// [`ReportError`]: also [`ReportError::Fenced`] when some of the lines are not stored any more.
pub async fn seal_stream(
    pool: &PgPool,
    watch: &Watch,
    key: &StreamKey,
    seal: &Seal,
    lines: i64,
) -> Result<bool, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let stored = sqlx::query_scalar!(
        "select lines from log_stream where pod_uid = $1 and container = $2 and restart = $3 and seal is null for update",
        key.pod_uid,
        key.container,
        key.restart
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if stored.is_some_and(|stored| stored < lines) {
        return Err(ReportError::Fenced);
    }
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
