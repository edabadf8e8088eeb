//! Logs that are stored, looked after in the background: what is longer than it may be loses its oldest lines, and small chunks
//! become larger ones, since a log of few lines would else take several times its own room. One after the other: both take
//! chunks away.

use std::collections::HashMap;
use std::time::Duration;

use octopus_shared::db::report::{self, Dropped, ReportError, Unmerged};
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
    while left.is_none() && exceeds(limit, bytes, expired) {
        let step = report::drop_oldest(&watching.context.pool, &watching.watch, process.process_id, limit).await;
        let dropped = watching.written(step)?;
        metrics::counter!("octopus_log_truncated_bytes_total").increment(dropped.bytes.unsigned_abs());
        (bytes, expired) = after(&dropped, bytes, expired);
        left = dropped.left;
    }
    Some(expired)
}

/// Whether a log may be longer than it may be, by what was stored of it and what had expired of that.
fn exceeds(limit: i64, bytes: i64, expired: i64) -> bool {
    limit > 0 && bytes - expired > limit
}

/// Bytes that are counted as stored, and those of them that have expired, after a step.
fn after(dropped: &Dropped, bytes: i64, expired: i64) -> (i64, i64) {
    let bytes = bytes - dropped.bytes;
    (bytes, dropped.left.map_or(expired, |left| bytes - left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_expired_is_not_counted_again_before_there_may_be_too_much() {
        let dropped = |bytes, left| Dropped { lines: 0, bytes, left };
        assert!(!exceeds(0, 1000, 0), "there is no limit");
        assert!(exceeds(100, 101, 0) && !exceeds(100, 100, 0));
        // Of 1000 bytes 940 are too old and gone: 60 are left, and it may grow by 40.
        let (bytes, expired) = after(&dropped(0, Some(60)), 1000, 0);
        assert_eq!((bytes, expired), (1000, 940));
        assert!(!exceeds(100, bytes + 40, expired) && exceeds(100, bytes + 41, expired));
        // A step that did not come to the end knows nothing of the rest.
        assert_eq!(after(&dropped(300, None), 1000, 200), (700, 200));
        assert_eq!(after(&dropped(300, Some(90)), 700, 200), (400, 310));
    }
}
