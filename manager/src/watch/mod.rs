//! What the cluster shows -> rows. One manager of a cluster watches it; the others stand by and take over when its lease
//! ends. Everything that is written carries the fencing token of the watch.

mod chunk;
mod deployments;
mod files;
mod line;
mod logs;
mod pace;
mod pods;
mod reader;
pub(crate) mod reconcile;
mod stream;
mod sweep;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use octopus_shared::db::claim;
use octopus_shared::db::report::{ReportError, Watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::context::Context;
use crate::session::jittered;

/// Takes the watch whenever nobody holds it, until `over`.
pub async fn run(context: Arc<Context>, instance: Uuid, over: CancellationToken) {
    let retry = jittered(context.config.lease() / 5).min(Duration::from_secs(2));
    while !over.is_cancelled() {
        match claim::take_watch(&context.pool, instance, &context.config.cluster).await {
            Ok(Some(token)) => {
                tracing::info!(token, "watching the cluster");
                watch(
                    &context,
                    Watch {
                        cluster: context.config.cluster.clone(),
                        token,
                    },
                    &over,
                )
                .await;
            }
            // Standing by: still ready only while the cluster answers.
            Ok(None) => context.health.set_cluster(context.cluster.ping().await.is_ok()),
            Err(error) => tracing::warn!(error = %error, "the watch cannot be taken"),
        }
        tokio::select! { () = over.cancelled() => {}, () = sleep(retry) => {} }
    }
}

/// Watches until the session or the watch is over.
async fn watch(context: &Arc<Context>, watch: Watch, over: &CancellationToken) {
    let lost = over.child_token();
    let shared = Arc::new(Watching {
        context: context.clone(),
        watch,
        lost: lost.clone(),
    });
    let logs = logs::Logs::start(shared.clone());
    tokio::join!(
        pods::run(&shared, &logs),
        sweep::run(&shared, &logs),
        deployments::run(&shared),
        reconcile::run(&shared),
        sweep::report_cluster(&shared),
    );
    logs.stop().await;
    if !over.is_cancelled() {
        tracing::warn!("another manager watches the cluster now");
    }
}

/// What the parts of a watch share.
pub(crate) struct Watching {
    pub(crate) context: Arc<Context>,
    pub(crate) watch: Watch,
    /// Cancelled when the watch is over.
    pub(crate) lost: CancellationToken,
}

impl Watching {
    /// Looks at the answer to a write: a stale token ends the watch, a database that is away is worth a line.
    /// None: nothing was written.
    pub(crate) fn written<T>(&self, answer: Result<T, ReportError>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(ReportError::Fenced) => {
                self.lost.cancel();
                None
            }
            Err(ReportError::Database(error)) => {
                tracing::warn!(error = %error, "what was seen is not stored yet");
                None
            }
        }
    }

    /// Sleeps. False: the watch is over.
    pub(crate) async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! { () = self.lost.cancelled() => false, () = sleep(duration) => true }
    }
}
