//! What the cluster shows -> rows. The managers of a cluster divide its processes among them by shards, and take over the
//! shards of one whose lease ends. Everything that is written carries the fencing token of the watch.

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
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::context::Context;
use crate::session::jittered;

/// Watches this manager's part of the cluster's shards until `over`. The part changes with the managers that live.
pub async fn run(context: Arc<Context>, instance: Uuid, over: CancellationToken) {
    let retry = jittered(context.config.lease() / 5).min(Duration::from_secs(2));
    let mut running: Option<Running> = None;
    while !over.is_cancelled() {
        running = match divide(&context, instance, running.take(), &over).await {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(error = %error, "the watch cannot be divided");
                None
            }
        };
        tokio::select! { () = over.cancelled() => {}, () = sleep(retry) => {} }
    }
    if let Some(running) = running {
        running.end().await;
    }
}

/// A watch that is going on.
struct Running {
    lost: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends it, and waits until nothing of it writes any more.
    async fn end(self) {
        self.lost.cancel();
        // It panicked or it ended: it writes no more.
        let _ = self.task.await;
    }
}

/// Looks at the division, and starts over with another part where it has changed. An error leaves `running` ended or as it is: the
/// next look tells.
async fn divide(
    context: &Arc<Context>,
    instance: Uuid,
    running: Option<Running>,
    over: &CancellationToken,
) -> Result<Option<Running>, sqlx::Error> {
    let (pool, cluster) = (&context.pool, &context.config.cluster);
    let running = running.filter(|running| !running.task.is_finished());
    let division = match claim::division(pool, instance, cluster).await {
        Ok(division) => division,
        Err(error) if running.is_some() => {
            tracing::warn!(error = %error, "the division of the watch cannot be seen");
            return Ok(running);
        }
        Err(error) => return Err(error),
    };
    let wanted = match (division.wanted(), &running) {
        (None, Some(_)) => return Ok(running),
        (None, None) => division.held,
        (Some(wanted), _) => wanted,
    };
    if running.is_none() {
        // Standing by: ready only while the cluster answers, and whoever does not reach it does not watch it.
        let reachable = context.cluster.ping().await.is_ok();
        context.health.set_cluster(reachable);
        if !reachable || wanted.is_empty() {
            return Ok(None);
        }
    }
    if let Some(running) = running {
        running.end().await;
    }
    let Some(held) = claim::divide(pool, instance, cluster, &wanted).await? else {
        return Ok(None);
    };
    tracing::info!(held.token, shards = ?held.shards, "watching the cluster");
    let lost = over.child_token();
    let task = tokio::spawn(watch(context.clone(), held, lost.clone()));
    Ok(Some(Running { lost, task }))
}

/// Watches until it is lost.
async fn watch(context: Arc<Context>, watch: Watch, lost: CancellationToken) {
    // What is about the whole cluster is done by whoever has the first shard.
    let leads = watch.shards.first() == Some(&0);
    let shared = Arc::new(Watching {
        context,
        watch,
        ended: Notify::new(),
        lost,
    });
    let logs = logs::Logs::start(shared.clone());
    tokio::join!(pods::run(&shared, &logs), sweep::run(&shared, &logs), async {
        if leads {
            tokio::join!(
                deployments::run(&shared),
                reconcile::run(&shared),
                sweep::keep_partitions(&shared),
                sweep::report_cluster(&shared),
            );
        }
    });
    logs.stop().await;
    tracing::info!(shared.watch.token, "this watch has ended");
}

/// What the parts of a watch share.
pub(crate) struct Watching {
    pub(crate) context: Arc<Context>,
    pub(crate) watch: Watch,
    /// Told when a log is sealed or a pod has ended: a pod may be removed now.
    pub(crate) ended: Notify,
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
