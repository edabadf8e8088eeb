//! Logs that are longer than they may be: the oldest chunks are dropped, and counted.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::hole;
use super::{ReportError, StreamKey, Watch, watched};

/// Chunks that are dropped in one step.
const STEP: i64 = 4096;

/// What a step has dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Lines.
    pub lines: i64,
    /// Bytes of printed lines.
    pub bytes: i64,
    /// Bytes that are left. None: nobody looked, and that is more than the limit.
    pub left: Option<i64>,
}

/// Drops the oldest chunks of a process until no more than `limit` bytes of printed lines are left, or the newest chunk alone.
/// Each stream loses its lines and counts them in one transaction. Nobody else may drop or merge chunks of the process meanwhile:
/// the watch is fenced, and within it there is one that does.
///
/// # Errors
/// [`ReportError`].
pub async fn drop_oldest(pool: &PgPool, watch: &Watch, process: Uuid, limit: i64) -> Result<Dropped, ReportError> {
    let chunks = sqlx::query!(
        r#"select seq as "seq!", pod_uid as "pod_uid!", container as "container!", restart as "restart!", newer::bigint as "newer!",
                  seq < newest and newer > $2 as "is_surplus!"
             from (select seq, pod_uid, container, restart, max(seq) over () as newest,
                          sum(coalesce(size, length(data))) over (order by seq desc) as newer
                     from log_chunk where process_id = $1) counted
            order by seq limit $3"#,
        process,
        limit,
        STEP
    )
    .fetch_all(pool)
    .await?;
    let found = chunks.len();
    let left = chunks.iter().find(|chunk| !chunk.is_surplus).map(|chunk| chunk.newer);
    let mut dropped = Dropped {
        left: left.or((found == 0).then_some(0)),
        ..Dropped::default()
    };
    let mut streams = BTreeMap::<_, Vec<i64>>::new();
    for row in chunks.into_iter().filter(|chunk| chunk.is_surplus) {
        let key = (row.pod_uid, row.container, row.restart);
        streams.entry(key).or_default().push(row.seq);
    }
    for ((pod_uid, container, restart), seqs) in streams {
        let key = StreamKey {
            pod_uid,
            container,
            restart,
        };
        let (lines, bytes) = drop_of(pool, watch, process, &key, &seqs).await?;
        dropped.lines += lines;
        dropped.bytes += bytes;
    }
    Ok(dropped)
}

/// Drops chunks of one stream: one row of `log_stream` is locked, so whoever locks several waits and never for each other.
async fn drop_of(
    pool: &PgPool,
    watch: &Watch,
    process: Uuid,
    key: &StreamKey,
    seqs: &[i64],
) -> Result<(i64, i64), ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let dropped = sqlx::query!(
        r#"with dropped as (
               delete from log_chunk where process_id = $1 and seq = any($5)
               returning seq, lines, coalesce(size, length(data)) as size, last_at,
                         coalesce(parts[cardinality(parts)], lines) as line),
           counted as (
               select sum(lines)::bigint as lines, sum(size)::bigint as size, max(last_at) as last_at, max(seq) as seq,
                      (array_agg(line order by seq desc))[1] as line
                 from dropped having count(*) > 0)
           update log_stream s
              set truncated_lines = s.truncated_lines + c.lines, truncated_bytes = s.truncated_bytes + c.size,
                  truncated_at = greatest(s.truncated_at, c.last_at), truncated_seq = greatest(s.truncated_seq, c.seq),
                  truncated_line = case when s.truncated_seq > c.seq then s.truncated_line else c.line end,
                  seal = case when s.seal is not null then 'truncated' end,
                  seal_reason = case when s.seal is not null then 'log_limit' end
             from counted c
            where s.pod_uid = $2 and s.container = $3 and s.restart = $4
           returning c.lines as "lines!", c.size as "bytes!", s.gaps, s.truncated_at, s.truncated_seq as "seq!""#,
        process,
        key.pod_uid,
        key.container,
        key.restart,
        seqs
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(dropped) = dropped else {
        transaction.commit().await?;
        return Ok((0, 0));
    };
    let holes = dropped.gaps.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(at) = dropped.truncated_at.and_then(|at| at.timestamp_nanos_opt())
        && hole::summed(holes, at, dropped.seq).is_some()
    {
        sum_holes(&mut transaction, process, key, holes, dropped.seq).await?;
    }
    transaction.commit().await?;
    Ok((dropped.lines, dropped.bytes))
}

/// Makes one of the holes before all lines that are left: whose log is dropped all the time would else have ever more of them.
async fn sum_holes(
    connection: &mut PgConnection,
    process: Uuid,
    key: &StreamKey,
    holes: &[Value],
    seq: i64,
) -> Result<(), sqlx::Error> {
    let first = sqlx::query_scalar!(
        "select min(first_at) from log_chunk where process_id = $1 and pod_uid = $2 and container = $3 and restart = $4",
        process,
        key.pod_uid,
        key.container,
        key.restart
    )
    .fetch_one(&mut *connection)
    .await?;
    let before = first.and_then(|first| first.timestamp_nanos_opt()).unwrap_or(i64::MAX);
    let Some(summed) = hole::summed(holes, before, seq) else {
        return Ok(());
    };
    sqlx::query!(
        "update log_stream set gaps = $4 where pod_uid = $1 and container = $2 and restart = $3",
        key.pod_uid,
        key.container,
        key.restart,
        Value::Array(summed)
    )
    .execute(connection)
    .await?;
    Ok(())
}
