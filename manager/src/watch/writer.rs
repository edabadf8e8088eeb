//! Chunks of all readers -> Postgres, many in one transaction, in the order in which they came.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use octopus_shared::db::report::{self, Chunk, Seal, StreamKey};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Watching;

/// Messages in one transaction at most.
const BATCH: usize = 256;

/// From a reader.
pub(super) enum Message {
    /// Lines; the writer numbers them.
    Chunk(Chunk),
    /// The end of a stream, behind all of its lines.
    Seal {
        process_id: Uuid,
        key: StreamKey,
        seal: Seal,
    },
}

pub(super) async fn run(watching: Arc<Watching>, mut messages: mpsc::Receiver<Message>) {
    let mut seqs = HashMap::new();
    let mut batch = Vec::with_capacity(BATCH);
    while messages.recv_many(&mut batch, BATCH).await > 0 {
        if !store(&watching, &mut seqs, &mut batch).await {
            return;
        }
        // Numbers of processes that rest are read again when they speak again.
        if seqs.len() > 10_000 {
            seqs.clear();
        }
    }
}

/// Stores a batch, however long that takes. False: the watch is over.
async fn store(watching: &Watching, seqs: &mut HashMap<Uuid, i64>, batch: &mut Vec<Message>) -> bool {
    let mut changed = HashSet::new();
    let mut chunks = Vec::new();
    let mut seals = Vec::new();
    for message in batch.drain(..) {
        match message {
            Message::Chunk(chunk) => {
                changed.insert(chunk.process_id);
                chunks.push(chunk);
            }
            Message::Seal { process_id, key, seal } => {
                changed.insert(process_id);
                seals.push((key, seal));
            }
        }
    }
    if !number(watching, seqs, &mut chunks).await {
        return false;
    }
    let pool = &watching.context.pool;
    if !chunks.is_empty() && !insist(watching, || report::append_chunks(pool, &watching.watch, &chunks)).await {
        return false;
    }
    let lines: i32 = chunks.iter().map(|chunk| chunk.lines).sum();
    metrics::counter!("octopus_log_lines_total").increment(u64::try_from(lines).unwrap_or_default());
    for (key, seal) in &seals {
        if !insist(watching, || report::seal_stream(pool, &watching.watch, key, seal)).await {
            return false;
        }
    }
    for process in changed {
        watching.context.changes.announce(process);
    }
    if !seals.is_empty() {
        watching.ended.notify_one();
    }
    true
}

/// Gives each chunk the next number of its process.
async fn number(watching: &Watching, seqs: &mut HashMap<Uuid, i64>, chunks: &mut [Chunk]) -> bool {
    let unknown: Vec<Uuid> = {
        let unknown: HashSet<Uuid> = chunks
            .iter()
            .map(|chunk| chunk.process_id)
            .filter(|id| !seqs.contains_key(id))
            .collect();
        unknown.into_iter().collect()
    };
    while !unknown.is_empty() {
        match report::last_seqs(&watching.context.pool, &unknown).await {
            Ok(last) => {
                seqs.extend(unknown.iter().map(|id| (*id, 0)));
                seqs.extend(last);
                break;
            }
            Err(error) => {
                tracing::warn!(error = %error, "logs wait for Postgres");
                if !watching.sleep(Duration::from_millis(500)).await {
                    return false;
                }
            }
        }
    }
    for chunk in chunks {
        let seq = seqs.entry(chunk.process_id).or_default();
        *seq += 1;
        chunk.seq = *seq;
    }
    true
}

/// Writes until it is written. False: the watch is over.
async fn insist<T, F>(watching: &Watching, write: impl Fn() -> F) -> bool
where
    F: Future<Output = Result<T, report::ReportError>>,
{
    loop {
        if watching.written(write().await).is_some() {
            return true;
        }
        if watching.lost.is_cancelled() || !watching.sleep(Duration::from_millis(500)).await {
            return false;
        }
    }
}
