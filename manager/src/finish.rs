//! Ends of commands -> Postgres, many in one statement. One task writes; whatever has come while it wrote is its next batch.
//! So a lone end waits for nothing, and a crowd shares its commits.

use std::time::Duration;

use octopus_shared::db::claim::{self, Claim, Outcome};
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::session::jittered;

/// Ends in one statement at most, and on their way to it.
const BATCH: usize = 100;

/// One end, and who waits for it to be stored.
struct End {
    seq: i64,
    token: i64,
    outcome: Outcome,
    /// Whether the claim was still ours.
    stored: oneshot::Sender<bool>,
}

/// Where ends are handed in.
#[derive(Clone)]
pub(crate) struct Finisher(mpsc::Sender<End>);

impl Finisher {
    /// Starts the writing task. It ends with its last `Finisher`, or when `over` drops what is not stored.
    pub(crate) fn start(pool: PgPool, over: CancellationToken) -> Self {
        let (sender, mut ends) = mpsc::channel(BATCH);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while ends.recv_many(&mut batch, BATCH).await > 0 {
                tokio::select! { () = store(&pool, &mut batch) => {}, () = over.cancelled() => return }
            }
        });
        Self(sender)
    }

    /// Stores an end, however long that takes. False: the claim, or the session, is over.
    pub(crate) async fn finish(&self, claim: &Claim, outcome: &Outcome) -> bool {
        let (stored, answer) = oneshot::channel();
        let end = End {
            seq: claim.seq,
            token: claim.token,
            outcome: outcome.clone(),
            stored,
        };
        self.0.send(end).await.is_ok() && answer.await.unwrap_or(false)
    }
}

async fn store(pool: &PgPool, batch: &mut Vec<End>) {
    let ended: Vec<_> = batch.iter().map(|end| (end.seq, end.token, &end.outcome)).collect();
    let ours = loop {
        match claim::finish(pool, &ended).await {
            Ok(ours) => break ours,
            Err(error) => tracing::warn!(error = %error, commands = ended.len(), "ends of commands are not stored yet"),
        }
        sleep(jittered(Duration::from_millis(500))).await;
    };
    for end in batch.drain(..) {
        // Who no longer waits does not need to know.
        let _ = end.stored.send(ours.contains(&end.seq));
    }
}
