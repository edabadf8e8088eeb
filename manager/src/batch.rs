//! Many small writes or reads in one. One task does them; whatever has come meanwhile is its next batch. So a lone one waits for
//! nothing, and a crowd shares its commits.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use octopus_shared::db::Silence;
use octopus_shared::db::report::{self, ProcessRow};
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use uuid::Uuid;

use crate::session::jittered;

/// Writes in one batch at most, and on their way to it.
const BATCH: usize = 100;
/// What comes so soon after a write is stored with it while the cluster is asked for as many objects as may be: nobody waits for the
/// reports then, and what Postgres takes for each commit is missing to the creations.
const GATHER_IN_CROWD: Duration = Duration::from_millis(50);
/// For one batch, until it is tried again.
const LIMIT: Duration = Duration::from_secs(15);

/// What is written under a claim.
pub(crate) trait Write: Send + Sync + Sized + 'static {
    /// What it is, for the log.
    const WHAT: &'static str;

    /// The command whose claim it is written under.
    fn seq(&self) -> i64;

    /// Stores a batch in one transaction. Answers those whose claim was still ours; of the others nothing was written.
    fn store(pool: &PgPool, batch: &[Self]) -> impl Future<Output = Result<Vec<i64>, sqlx::Error>> + Send;
}

/// Where writes of one kind are handed in.
pub(crate) struct Batcher<T>(mpsc::Sender<(T, oneshot::Sender<bool>)>);

impl<T: Write> Batcher<T> {
    /// Starts the writing task, which ends with its `Batcher`. While Postgres is away it tries again. `is_crowded`: whether the
    /// cluster is asked for as many objects as may be.
    pub(crate) fn start(pool: PgPool, silence: Silence, is_crowded: impl Fn() -> bool + Send + 'static) -> Self {
        let (sender, mut handed_in) = mpsc::channel::<(T, oneshot::Sender<bool>)>(BATCH);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while let Some(first) = handed_in.recv().await {
                batch.push(first);
                if is_crowded() {
                    sleep(GATHER_IN_CROWD).await;
                }
                while batch.len() < BATCH
                    && let Ok(next) = handed_in.try_recv()
                {
                    batch.push(next);
                }
                let (writes, waiting): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
                let written = insist(&pool, &silence, &writes).await;
                for (write, waiting) in writes.iter().zip(waiting) {
                    // Who no longer waits does not need to know.
                    let _ = waiting.send(written.contains(&write.seq()));
                }
            }
        });
        Self(sender)
    }

    /// Hands a write in and waits for it, however long that takes. False: its claim was not ours any more.
    pub(crate) async fn write(&self, what: T) -> bool {
        let (stored, answer) = oneshot::channel();
        self.0.send((what, stored)).await.is_ok() && answer.await.unwrap_or(false)
    }
}

/// Where processes are asked for.
pub(crate) struct Processes {
    pool: PgPool,
    asked: mpsc::Sender<(Uuid, oneshot::Sender<ProcessRow>)>,
}

impl Processes {
    /// Starts the reading task, which ends with its `Processes`.
    pub(crate) fn start(pool: PgPool, silence: Silence) -> Self {
        let (asked, mut waiting) = mpsc::channel::<(Uuid, oneshot::Sender<ProcessRow>)>(BATCH);
        let reads = pool.clone();
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while waiting.recv_many(&mut batch, BATCH).await > 0 {
                let ids: Vec<Uuid> = batch.iter().map(|(id, _)| *id).collect();
                let found = tokio::select! {
                    found = report::processes(&reads, &ids) => found.unwrap_or_default(),
                    () = silence.noticed() => Vec::new(),
                    () = sleep(LIMIT) => Vec::new(),
                };
                let mut found: HashMap<Uuid, ProcessRow> = found.into_iter().map(|row| (row.id, row)).collect();
                for (id, waiting) in batch.drain(..) {
                    if let Some(row) = found.remove(&id) {
                        // Who no longer waits does not need to know.
                        let _ = waiting.send(row);
                    }
                }
            }
        });
        Self { pool, asked }
    }

    /// One process. What stands against reading it is found by asking for it alone.
    pub(crate) async fn read(&self, id: Uuid) -> Result<ProcessRow, sqlx::Error> {
        let (read, answer) = oneshot::channel();
        if self.asked.send((id, read)).await.is_ok()
            && let Ok(row) = answer.await
        {
            return Ok(row);
        }
        report::process(&self.pool, id).await
    }
}

async fn insist<T: Write>(pool: &PgPool, silence: &Silence, writes: &[T]) -> HashSet<i64> {
    loop {
        // A connection that died without a word would never answer, and every write behind this one would wait.
        let stored = tokio::select! {
            stored = T::store(pool, writes) => stored,
            () = silence.noticed() => Err(sqlx::Error::PoolTimedOut),
            () = sleep(LIMIT) => Err(sqlx::Error::PoolTimedOut),
        };
        match stored {
            Ok(written) => return written.into_iter().collect(),
            Err(error) => tracing::warn!(error = %error, what = T::WHAT, number = writes.len(), "not stored yet"),
        }
        sleep(jittered(Duration::from_millis(500))).await;
    }
}
