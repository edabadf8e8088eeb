//! What all readers say -> Postgres, much of it in one transaction, in the order in which it came; while Postgres is away, into
//! the spool.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub(super) use octopus_shared::db::report::LogMessage as Message;
use octopus_shared::db::report::{self, Chunk, ReportError};
use octopus_shared::log::Gap;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::Watching;
use super::share::Room;
use crate::spool::Spool;

/// Messages in one transaction at most.
const BATCH: usize = 256;
/// From one transaction to the next at least: what comes meanwhile shares its costs.
const GATHERED: Duration = Duration::from_millis(25);
/// Without an answer from Postgres. Where there is a spool, nobody waits for longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// After an error.
const AGAIN: Duration = Duration::from_millis(500);

/// From a reader.
pub(super) struct Said {
    pub(super) message: Message,
    /// What lines take until they are on a disk.
    pub(super) room: Option<Room>,
}

pub(super) async fn run(watching: Arc<Watching>, mut messages: mpsc::Receiver<Said>) {
    let mut seqs = HashMap::new();
    let mut batch = Vec::with_capacity(BATCH);
    let mut next = Instant::now();
    while messages.recv_many(&mut batch, BATCH).await > 0 {
        sleep_until(next).await;
        next = Instant::now() + GATHERED;
        while batch.len() < BATCH
            && let Ok(said) = messages.try_recv()
        {
            batch.push(said);
        }
        let (batch, rooms): (Vec<_>, Vec<_>) = batch.drain(..).map(|said| (said.message, said.room)).unzip();
        match &watching.context.spool {
            Some(spool) => store_or_keep(&watching, spool, &mut seqs, batch).await,
            None if !insist(&watching, &mut seqs, batch).await => return,
            None => {}
        }
        drop(rooms);
        // Numbers of processes that rest are read again when they speak again.
        if seqs.len() > 10_000 {
            seqs.clear();
        }
    }
}

/// Stores a batch at once if nothing waits before it, else behind what waits. Returns when it is on a disk.
async fn store_or_keep(watching: &Watching, spool: &Spool, seqs: &mut HashMap<Uuid, i64>, mut messages: Vec<Message>) {
    while !messages.is_empty() {
        if spool.is_empty() && !watching.lost.is_cancelled() {
            let (mut chunks, seals) = divided(messages);
            let storing = timeout(PATIENCE, store(watching, seqs, &mut chunks, &seals)).await;
            let answer = storing.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut.into()));
            if watching.written(answer).is_some() {
                spool.was_passed();
                return;
            }
            // Whether it was stored is seen when it is replayed, and which numbers are taken then too.
            seqs.clear();
            messages = chunks.into_iter().map(Message::Chunk).chain(seals).collect();
        }
        let (left, appended) = spool.append(messages).await;
        messages = left;
        if let Err(error) = appended {
            tracing::error!(error = %error, "the spool cannot be written");
            sleep(AGAIN).await;
        } else if !messages.is_empty() {
            // Full: readers wait, as they do for Postgres.
            tokio::select! { () = spool.room() => {}, () = sleep(AGAIN) => {} }
        }
    }
}

/// Stores a batch, however long that takes. False: the watch is over.
async fn insist(watching: &Watching, seqs: &mut HashMap<Uuid, i64>, messages: Vec<Message>) -> bool {
    let (mut chunks, seals) = divided(messages);
    loop {
        if watching
            .written(store(watching, seqs, &mut chunks, &seals).await)
            .is_some()
        {
            return true;
        }
        if watching.lost.is_cancelled() || !watching.sleep(AGAIN).await {
            return false;
        }
        // Which numbers are taken is asked again: nothing of the batch is stored, or it needs none any more.
        seqs.clear();
        chunks.iter_mut().for_each(|chunk| chunk.seq = 0);
    }
}

/// Lines, and the ends of streams, which come behind them.
fn divided(messages: Vec<Message>) -> (Vec<Chunk>, Vec<Message>) {
    let (mut chunks, mut seals) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            Message::Chunk(chunk) => chunks.push(chunk),
            seal @ Message::Seal { .. } => seals.push(seal),
        }
    }
    (chunks, seals)
}

/// Stores a batch. Repeating it changes nothing.
async fn store(
    watching: &Watching,
    seqs: &mut HashMap<Uuid, i64>,
    chunks: &mut [Chunk],
    seals: &[Message],
) -> Result<(), ReportError> {
    let pool = &watching.context.pool;
    if !chunks.is_empty() {
        number(watching, seqs, chunks).await?;
        report::append_chunks(pool, &watching.watch, chunks).await?;
    }
    for message in seals {
        if let Message::Seal {
            process_id,
            key,
            seal,
            at,
        } = message
        {
            report::seal_stream(pool, &watching.watch, key, seal, at.lines).await?;
            if seal.gaps.iter().any(Gap::is_spooled) {
                // Numbers were kept free for what may come.
                seqs.remove(process_id);
            }
        }
    }
    let lines: i32 = chunks.iter().map(|chunk| chunk.lines).sum();
    metrics::counter!("octopus_log_lines_total").increment(u64::try_from(lines).unwrap_or_default());
    let spoken = chunks.iter().map(|chunk| chunk.process_id);
    let changed: HashSet<Uuid> = spoken.chain(seals.iter().map(Message::process_id)).collect();
    for process in changed {
        watching.context.changes.announce(process);
    }
    if !seals.is_empty() {
        watching.ended.notify_one();
    }
    Ok(())
}

/// Gives each chunk that has none the next number of its process.
async fn number(watching: &Watching, seqs: &mut HashMap<Uuid, i64>, chunks: &mut [Chunk]) -> Result<(), sqlx::Error> {
    let unknown: HashSet<Uuid> = chunks
        .iter()
        .map(|chunk| chunk.process_id)
        .filter(|id| !seqs.contains_key(id))
        .collect();
    if !unknown.is_empty() {
        let unknown: Vec<Uuid> = unknown.into_iter().collect();
        let last = report::last_seqs(&watching.context.pool, &unknown).await?;
        seqs.extend(unknown.iter().map(|id| (*id, 0)));
        seqs.extend(last);
    }
    for chunk in chunks.iter_mut().filter(|chunk| chunk.seq == 0) {
        report::number(seqs.entry(chunk.process_id).or_default(), chunk);
    }
    Ok(())
}
