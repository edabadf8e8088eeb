//! Many small writes in one. One task writes; whatever has come while it wrote is its next batch. So a lone write waits for
//! nothing, and a crowd shares its commits.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::session::jittered;

/// Writes in one batch at most, and on their way to it.
const BATCH: usize = 100;
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
    /// Starts the writing task, which ends with its `Batcher`. While Postgres is away it tries again.
    pub(crate) fn start(pool: PgPool) -> Self {
        let (sender, mut handed_in) = mpsc::channel::<(T, oneshot::Sender<bool>)>(BATCH);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while handed_in.recv_many(&mut batch, BATCH).await > 0 {
                let (writes, waiting): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
                let written = insist(&pool, &writes).await;
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

async fn insist<T: Write>(pool: &PgPool, writes: &[T]) -> HashSet<i64> {
    loop {
        // A connection that died without a word would never answer, and every write behind this one would wait.
        let stored = timeout(LIMIT, T::store(pool, writes)).await;
        match stored.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok(written) => return written.into_iter().collect(),
            Err(error) => tracing::warn!(error = %error, what = T::WHAT, number = writes.len(), "not stored yet"),
        }
        sleep(jittered(Duration::from_millis(500))).await;
    }
}
