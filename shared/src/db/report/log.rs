//! Logs: cursors, chunks and seals, written together so that neither can run ahead of the other.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::pod::settle_process;
use super::{ReportError, Watch, watched};
use crate::log::Gap;

/// One run of one container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// Kubernetes' uid of the pod.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// Its restart count.
    pub restart: i32,
}

/// How far a stream was stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamCursor {
    /// Timestamp of the last stored line, nanoseconds since 1970. None: no line yet.
    pub time: Option<i64>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Holes found last, in order; none when it was read to the end.
    pub gaps: Vec<Gap>,
    /// How the end of the container was known: `seen`, `inferred` or `unknown`.
    pub end: &'static str,
}

/// A stream that is not sealed.
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
#[derive(Clone, Debug)]
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
    /// The lines (`shared::log`).
    pub data: Vec<u8>,
    /// The stream's cursor after it.
    pub cursor: StreamCursor,
    /// Holes found before or within it.
    pub gaps: Vec<Gap>,
}

/// Opens a stream, or finds it as it was left. None: it is sealed.
///
/// # Errors
/// [`ReportError`].
pub async fn open_stream(
    pool: &PgPool,
    watch: &Watch,
    process: Uuid,
    attempt: i32,
    key: &StreamKey,
) -> Result<Option<StreamCursor>, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    sqlx::query!(
        "insert into log_stream (process_id, pod_uid, container, restart, attempt) values ($1, $2, $3, $4, $5)
         on conflict do nothing",
        process,
        key.pod_uid,
        key.container,
        key.restart,
        attempt
    )
    .execute(&mut *transaction)
    .await?;
    let row = sqlx::query!(
        "select cursor_time, cursor_count, cursor_hash, chain, lines, bytes, last_at, seal from log_stream
          where pod_uid = $1 and container = $2 and restart = $3",
        key.pod_uid,
        key.container,
        key.restart
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(row.seal.is_none().then_some(StreamCursor {
        time: row.cursor_time,
        latest: row.last_at.and_then(|at| at.timestamp_nanos_opt()),
        count: row.cursor_count,
        hash: row.cursor_hash,
        chain: row.chain.or((row.lines == 0).then(Vec::new)),
        lines: row.lines,
        bytes: row.bytes,
    }))
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
pub async fn open_streams(pool: &PgPool, watch: &Watch) -> Result<Vec<OpenStream>, sqlx::Error> {
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

/// The newest chunk of each process. Processes without one are absent.
///
/// # Errors
/// When Postgres is away.
pub async fn last_seqs(pool: &PgPool, processes: &[Uuid]) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    Ok(sqlx::query!(
        r#"select process_id, max(seq) as "seq!" from log_chunk where process_id = any($1) group by process_id"#,
        processes
    )
    .fetch_all(pool)
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
    let column = |pick: fn(&Chunk) -> &StreamKey| chunks.iter().map(pick).collect::<Vec<_>>();
    let keys = column(|chunk| &chunk.key);
    let pods: Vec<String> = keys.iter().map(|key| key.pod_uid.clone()).collect();
    let containers: Vec<String> = keys.iter().map(|key| key.container.clone()).collect();
    let restarts: Vec<i32> = keys.iter().map(|key| key.restart).collect();
    sqlx::query!(
        "insert into log_chunk (process_id, seq, day, pod_uid, container, restart, lines, first_at, last_at, data)
         select * from unnest($1::uuid[], $2::bigint[], $3::date[], $4::text[], $5::text[], $6::integer[], $7::integer[],
                              $8::timestamptz[], $9::timestamptz[], $10::bytea[])
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
        &chunks.iter().map(|chunk| chunk.data.clone()).collect::<Vec<_>>()
    )
    .execute(&mut *transaction)
    .await?;
    for chunk in chunks {
        let gaps = serde_json::to_value(&chunk.gaps).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query!(
            // A chunk that is stored again finds the cursor where it left it, and its gaps already there.
            "update log_stream set cursor_time = $4, cursor_count = $5, cursor_hash = $6, lines = $7, bytes = $8,
                    first_at = least(first_at, $9), last_at = greatest(last_at, $10), gaps = gaps || $11, chain = $12
              where pod_uid = $1 and container = $2 and restart = $3 and lines < $7",
            chunk.key.pod_uid,
            chunk.key.container,
            chunk.key.restart,
            chunk.cursor.time,
            chunk.cursor.count,
            chunk.cursor.hash,
            chunk.cursor.lines,
            chunk.cursor.bytes,
            chunk.first_at,
            chunk.last_at,
            gaps,
            chunk.cursor.chain
        )
        .execute(&mut *transaction)
        .await?;
    }
    Ok(transaction.commit().await?)
}

/// Seals a stream: from here on its pod may go. False: it was sealed before.
///
/// # Errors
/// [`ReportError`].
pub async fn seal_stream(pool: &PgPool, watch: &Watch, key: &StreamKey, seal: &Seal) -> Result<bool, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let gaps = serde_json::to_value(&seal.gaps).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let process = sqlx::query_scalar!(
        "update log_stream
            set gaps = gaps || $4, seal = case when gaps || $4 = '[]' then 'complete' else 'gap' end,
                seal_reason = (gaps || $4) -> -1 ->> 'reason', seal_end = $5, sealed_at = now()
          where pod_uid = $1 and container = $2 and restart = $3 and seal is null
         returning process_id",
        key.pod_uid,
        key.container,
        key.restart,
        gaps,
        seal.end
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(process) = process {
        settle_process(&mut transaction, watch, process).await?;
    }
    transaction.commit().await?;
    Ok(process.is_some())
}
