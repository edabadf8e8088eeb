//! Small chunks -> larger ones, in the background.

use std::time::Duration;

use chrono::NaiveDate;
use sqlx::PgPool;
use uuid::Uuid;

use super::{ReportError, StreamKey, Watch, watched};
use crate::log::{MOST_PARTS, Packer, Piece, Span, Text, plan};

/// Chunks of a process that are looked at in one step: more than may become one, so a step gets on.
const STEP: i64 = MOST_PARTS + 1024;

/// A process whose chunks may have to be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmerged {
    /// The process.
    pub process_id: Uuid,
    /// Lines that were stored of it.
    pub lines: i64,
    /// Those of them that were stored into holes, before others.
    pub filled: i64,
    /// Bytes that were stored of it, without those that a limit has dropped.
    pub bytes: i64,
    /// All its streams are sealed.
    pub ended: bool,
}

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Chunks that were written.
    pub written: usize,
    /// Chunks up to this one need not be looked at again.
    pub done: i64,
    /// There are chunks that were not looked at: too young, or too many for one step.
    pub more: bool,
}

/// Processes of the watched shards with small chunks, or with streams that may still get some.
///
/// # Errors
/// When Postgres is away.
pub async fn unmerged(pool: &PgPool, watch: &Watch) -> Result<Vec<Unmerged>, sqlx::Error> {
    sqlx::query_as!(
        Unmerged,
        r#"select s.process_id, sum(s.lines + s.filled_lines)::bigint as "lines!",
                  sum(s.filled_lines)::bigint as "filled!",
                  sum(s.bytes + s.filled_bytes - s.truncated_bytes)::bigint as "bytes!",
                  bool_and(s.seal is not null) as "ended!"
             from log_stream s join process p on p.id = s.process_id join pod d on d.uid = s.pod_uid
            where s.process_id in (select u.process_id from log_stream u where not u.merged)
              and p.cluster = $1 and d.shard = any($2)
            group by s.process_id"#,
        watch.cluster,
        &watch.shards
    )
    .fetch_all(pool)
    .await
}

type Key = (NaiveDate, StreamKey);

/// Merges chunks of a process after number `after` that are older than `age`, each group in a transaction of its own. A process
/// that has ended and has no more is marked.
///
/// # Errors
/// [`ReportError`].
pub async fn merge_step(
    pool: &PgPool,
    watch: &Watch,
    process: &Unmerged,
    after: i64,
    age: Duration,
) -> Result<Merged, ReportError> {
    let rows = sqlx::query!(
        r#"select seq, day, pod_uid, container, restart, coalesce(cardinality(parts), 1)::bigint as "parts!",
                  coalesce(size, length(data))::bigint as "size!",
                  last_at between clock_timestamp() - make_interval(secs => $3) and clock_timestamp() + make_interval(secs => $3) as "young!"
             from log_chunk where process_id = $1 and seq > $2 order by seq limit $4"#,
        process.process_id,
        after,
        age.as_secs_f64(),
        STEP
    )
    .fetch_all(pool)
    .await?;
    let found = rows.len();
    let pieces: Vec<Piece<Key>> = rows
        .into_iter()
        .take_while(|row| !row.young)
        .map(|row| Piece {
            seq: row.seq,
            parts: row.parts,
            key: (
                row.day,
                StreamKey {
                    pod_uid: row.pod_uid,
                    container: row.container,
                    restart: row.restart,
                },
            ),
            size: row.size,
        })
        .collect();
    let more = pieces.len() < found || i64::try_from(found).is_ok_and(|found| found == STEP);
    let plan = plan(&pieces, process.ended && !more);
    for group in &plan.groups {
        merge(pool, watch, process.process_id, &pieces[group.clone()]).await?;
    }
    if process.ended && !more {
        set_merged(pool, watch, process).await?;
    }
    Ok(Merged {
        written: plan.groups.len(),
        done: pieces[..plan.done].last().map_or(after, |piece| piece.seq),
        more,
    })
}

/// Makes neighbours one. Nothing is changed when they are not there as they were seen.
async fn merge(pool: &PgPool, watch: &Watch, process: Uuid, pieces: &[Piece<Key>]) -> Result<(), ReportError> {
    let [first, .., last] = pieces else { return Ok(()) };
    let (day, key) = &first.key;
    let mut transaction = watched(pool, watch).await?;
    let mut rows = sqlx::query!(
        "delete from log_chunk where process_id = $1 and day = $2 and seq between $3 and $4
         returning seq, lines, parts, first_at, last_at, encoding, data",
        process,
        day,
        first.seq,
        last.seq
    )
    .fetch_all(&mut *transaction)
    .await?;
    rows.sort_unstable_by_key(|row| row.seq);
    if !rows.iter().map(|row| row.seq).eq(pieces.iter().map(|piece| piece.seq)) {
        return Ok(());
    }
    let (mut packer, mut spans, mut size) = (Packer::default(), Vec::new(), 0);
    let (mut first_at, mut last_at) = (None, None);
    for row in rows {
        let text = Text::decode(row.encoding, row.data).map_err(|error| sqlx::Error::Decode(error.into()))?;
        for line in text.lines() {
            packer.push(line.at, line.content);
            size += line.content.len() + 1;
        }
        spans.push(Span {
            seq: row.seq,
            lines: row.lines,
            parts: row.parts,
        });
        first_at = Some(first_at.map_or(row.first_at, |at: chrono::DateTime<_>| at.min(row.first_at)));
        last_at = last_at.max(Some(row.last_at));
    }
    let Some(span) = Span::merged(&spans) else {
        return Ok(());
    };
    let text = packer.finish();
    sqlx::query!(
        "insert into log_chunk (process_id, seq, day, pod_uid, container, restart, lines, first_at, last_at, data, encoding,
                                size, parts)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        process,
        span.seq,
        day,
        key.pod_uid,
        key.container,
        key.restart,
        span.lines,
        first_at,
        last_at,
        text.data,
        text.encoding,
        i32::try_from(size).unwrap_or(i32::MAX),
        span.parts.as_deref()
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// Marks all streams of a process, unless lines came into a hole meanwhile.
async fn set_merged(pool: &PgPool, watch: &Watch, process: &Unmerged) -> Result<(), ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let stored = sqlx::query_scalar!(
        r#"select sum(lines + filled_lines)::bigint as "lines!"
             from (select lines, filled_lines from log_stream where process_id = $1
                    order by pod_uid, container, restart for update) locked"#,
        process.process_id
    )
    .fetch_one(&mut *transaction)
    .await?;
    if stored == process.lines {
        sqlx::query!(
            "update log_stream set merged = true where process_id = $1 and seal is not null and not merged",
            process.process_id
        )
        .execute(&mut *transaction)
        .await?;
    }
    Ok(transaction.commit().await?)
}
