//! The spool -> Postgres, in the order in which it was written, whenever Postgres can be written to.

use std::time::Duration;

use octopus_shared::db::report::{self, Replayed};

use tokio::time::sleep;

use super::Watching;
use crate::spool::{Queue, Spool};

/// After an error.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two looks whether what was put aside is still needed.
const ASIDE_EVERY: Duration = Duration::from_secs(10);

/// Replays what comes while this watch goes on.
pub(super) async fn run(watching: &Watching, spool: &Spool) {
    loop {
        tokio::select! {
            () = spool.filled() => {}
            () = sleep(ASIDE_EVERY), if spool.bytes_of(Queue::Aside) > 0 => {
                if pass(watching, spool, Queue::Aside).await.is_none() {
                    return;
                }
            }
            () = watching.lost.cancelled() => return,
        }
        match drain(watching, spool).await {
            None => return,
            // The readers are ahead of what is stored: they begin again from there, with another watch.
            Some(true) => {
                tracing::warn!(
                    "lines that were spooled are not there any more; logs are read again from where they are stored"
                );
                return watching.lost.cancel();
            }
            Some(false) => {}
        }
    }
}

/// Replays until nothing waits. None: the watch is over. Whether lines were missing on the way.
pub(super) async fn drain(watching: &Watching, spool: &Spool) -> Option<bool> {
    let mut missing = false;
    while !spool.is_empty() {
        let (replayed, _) = step(watching, spool, Queue::Messages).await?;
        missing |= replayed.missing;
    }
    Some(missing)
}

/// Replays what is there now, of either queue: what was put aside is tried, since other managers may have read on, or have left
/// it to us. None: the watch is over.
pub(super) async fn pass(watching: &Watching, spool: &Spool, queue: Queue) -> Option<()> {
    if queue == Queue::Aside {
        spool.wait_for_none();
    }
    let mut left = spool.bytes_of(queue);
    while left > 0 {
        let (_, bytes) = step(watching, spool, queue).await?;
        left = if bytes == 0 { 0 } else { left.saturating_sub(bytes) };
    }
    Some(())
}

/// Replays the next messages, however long that takes. Answers what became of them, and their bytes.
async fn step(watching: &Watching, spool: &Spool, queue: Queue) -> Option<(Replayed, u64)> {
    let (messages, bytes) = loop {
        match spool.front(queue).await {
            Ok(front) => break front,
            Err(error) => {
                tracing::error!(error = %error, "the spool cannot be read");
                wait(watching).await?;
            }
        }
    };
    if messages.is_empty() {
        return Some((Replayed::default(), bytes));
    }
    let (messages, mut aside) = spool.divided(messages);
    let pool = &watching.context.pool;
    let replayed = loop {
        let replaying = report::replay(pool, &watching.watch, &messages);
        let answer = tokio::select! { answer = replaying => answer, () = watching.lost.cancelled() => return None };
        match watching.written(answer) {
            Some(replayed) => break replayed,
            None => wait(watching).await?,
        }
    };
    tell(watching, &replayed);
    aside.extend(replayed.others.iter().map(|index| messages[*index].clone()));
    spool.wait_for(aside.iter());
    while let Err(error) = spool.done(queue, aside.clone()).await {
        tracing::error!(error = %error, "the spool cannot be written");
        wait(watching).await?;
    }
    Some((replayed, bytes))
}

async fn wait(watching: &Watching) -> Option<()> {
    watching.sleep(AGAIN).await.then_some(())
}

fn tell(watching: &Watching, replayed: &Replayed) {
    metrics::counter!("octopus_log_lines_total").increment(u64::try_from(replayed.lines).unwrap_or_default());
    for process in &replayed.changed {
        watching.context.changes.announce(*process);
    }
    if replayed.sealed > 0 {
        watching.ended.notify_one();
    }
    tracing::debug!(
        replayed.lines,
        replayed.filled,
        replayed.passed,
        others = replayed.others.len(),
        "logs that were spooled are stored"
    );
}
