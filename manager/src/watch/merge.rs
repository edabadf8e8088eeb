//! Logs that are stored, looked after in the background: what is longer than it may be loses its oldest lines, and small chunks
//! become larger ones, since a log of few lines would else take several times its own room. One after the other: both take
//! chunks away.

use std::collections::HashMap;
use std::time::Duration;

use octopus_shared::db::report::{self, ReportError, Unmerged};
use uuid::Uuid;

use super::Watching;

const EVERY: Duration = Duration::from_secs(10);
/// Rounds in which chunks are merged too.
const MERGING: usize = 3;
/// Of the last line of a chunk that is merged, by the database's clock: what readers are just asking for is left alone.
const AGE: Duration = Duration::from_secs(60);

/// How far a process was looked at.
#[derive(Clone, Copy, Default)]
struct Looked {
    /// Chunks up to this one are merged.
    done: i64,
    /// Lines that were stored into holes by then.
    filled: i64,
    /// Lines that were stored when there was nothing left to do.
    lines: Option<i64>,
    /// Lines that were stored when its log was last within the limit.
    kept: Option<i64>,
    /// Bytes that were stored and were not there any more when that was counted: they were too old.
    expired: i64,
}

pub(super) async fn run(watching: &Watching) {
    let mut looked = HashMap::new();
    for merges in (1..).map(|round: usize| round.is_multiple_of(MERGING)) {
        if !watching.sleep(EVERY).await {
            return;
        }
        round(watching, &mut looked, merges).await;
    }
}

async fn round(watching: &Watching, looked: &mut HashMap<Uuid, Looked>, merges: bool) {
    let context = &watching.context;
    let found = report::unmerged(&context.pool, &watching.watch).await;
    let Some(found) = watching.written(found.map_err(Into::into)) else {
        return;
    };
    let mut before = std::mem::take(looked);
    for process in found {
        let mut look = before.remove(&process.process_id).unwrap_or_default();
        if look.filled != process.filled {
            (look.done, look.filled) = (0, process.filled);
        }
        if look.kept != Some(process.lines) {
            let Some(expired) = limit(watching, &process, look.expired).await else {
                return;
            };
            (look.kept, look.expired) = (Some(process.lines), expired);
        }
        if merges && (process.ended || look.lines != Some(process.lines)) {
            let step = report::merge_step(&context.pool, &watching.watch, &process, look.done, AGE).await;
            // What cannot be read stays as it is, and holds up no other log.
            if let Err(ReportError::Database(sqlx::Error::Decode(error))) = &step {
                tracing::warn!(process.id = %process.process_id, error = %error, "a log cannot be merged");
                continue;
            }
            let Some(merged) = watching.written(step) else {
                return;
            };
            metrics::counter!("octopus_log_merges_total").increment(merged.written as u64);
            look.done = merged.done;
            look.lines = (!merged.more).then_some(process.lines);
        }
        looked.insert(process.process_id, look);
    }
}

/// Drops what a log has too much. Answers how many of its bytes have `expired`. None: that could not be done.
async fn limit(watching: &Watching, process: &Unmerged, mut expired: i64) -> Option<i64> {
    let limit = watching.context.config.log_bytes_per_process;
    let (mut bytes, mut left) = (process.bytes, None);
    while limit > 0 && left.is_none() && bytes - expired > limit {
        let step = report::drop_oldest(&watching.context.pool, &watching.watch, process.process_id, limit).await;
        let dropped = watching.written(step)?;
        metrics::counter!("octopus_log_truncated_bytes_total").increment(dropped.bytes.unsigned_abs());
        bytes -= dropped.bytes;
        left = dropped.left;
        expired = left.map_or(expired, |left| bytes - left);
    }
    Some(expired)
}
