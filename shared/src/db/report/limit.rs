//! Logs that are longer than they may be: the oldest chunks are dropped, and counted.

use std::collections::BTreeMap;

use sqlx::PgPool;
use uuid::Uuid;

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
    /// There may be more to drop.
    pub more: bool,
}

/// Drops the oldest chunks of a process until no more than `limit` bytes of printed lines are left, or the newest chunk alone.
/// Each stream loses its lines and counts them in one transaction. Nobody else may drop or merge chunks of the process meanwhile:
/// the watch is fenced, and within it there is one that does.
///
/// # Errors
/// [`ReportError`].
pub async fn drop_oldest(pool: &PgPool, watch: &Watch, process: Uuid, limit: i64) -> Result<Dropped, ReportError> {
    let surplus = sqlx::query!(
        r#"select seq as "seq!", pod_uid as "pod_uid!", container as "container!", restart as "restart!"
             from (select seq, pod_uid, container, restart, max(seq) over () as newest,
                          sum(coalesce(size, length(data))) over (order by seq desc) as newer
                     from log_chunk where process_id = $1) counted
            where newer > $2 and seq < newest order by seq limit $3"#,
        process,
        limit,
        STEP
    )
    .fetch_all(pool)
    .await?;
    let mut dropped = Dropped {
        more: i64::try_from(surplus.len()).is_ok_and(|found| found == STEP),
        ..Dropped::default()
    };
    let mut streams = BTreeMap::<_, Vec<i64>>::new();
    for row in surplus {
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
           returning c.lines as "lines!", c.size as "bytes!""#,
        process,
        key.pod_uid,
        key.container,
        key.restart,
        seqs
    )
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(dropped.map(|row| (row.lines, row.bytes)).unwrap_or_default())
}
