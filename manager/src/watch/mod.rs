//! What the cluster shows -> rows. The managers of a cluster divide its processes among them by shards, and take over the
//! shards of one whose lease ends. Everything that is written carries the fencing token of the watch.

mod chunk;
mod deployments;
mod files;
mod flow;
mod line;
mod logs;
mod merge;
mod pace;
mod part;
mod pods;
mod progress;
mod reader;
pub(crate) mod reconcile;
mod run;
mod seen;
mod share;
mod spooled;
mod stream;
mod sweep;
mod taking;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use octopus_shared::db::report::{ReportError, Watch};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use self::logs::Logs;
pub use self::part::run;
use crate::context::Context;

/// Watches until it is lost. Once `over`, nobody has taken it away: Postgres is not there to judge.
async fn watch(context: Arc<Context>, watch: Watch, lost: CancellationToken, over: CancellationToken) {
    // What is about the whole cluster is done by whoever has the first shard.
    let leads = watch.shards.first() == Some(&0);
    let shared = Arc::new(Watching {
        context,
        watch,
        ended: Notify::new(),
        lost,
        returned: Notify::new(),
        hindered: Notify::new(),
    });
    let Some(logs) = Logs::start(shared.clone()).await else {
        return;
    };
    let merging = merge::run(&shared);
    let replaying = async {
        if let Some(spool) = &shared.context.spool {
            spooled::run(&shared, spool).await;
        }
    };
    tokio::join!(
        pods::run(&shared, &logs),
        sweep::run(&shared, &logs),
        merging,
        replaying,
        async {
            if leads {
                tokio::join!(
                    deployments::run(&shared),
                    reconcile::run(&shared),
                    sweep::keep_partitions(&shared),
                    sweep::report_cluster(&shared),
                );
            } else {
                sweep::ask_cluster(&shared).await;
            }
        }
    );
    logs.leave(!over.is_cancelled()).await;
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
    /// Told when the API server is back: what was asked before may never be answered.
    pub(crate) returned: Notify,
    /// Told when a service has no pod, or waits for new ones.
    pub(crate) hindered: Notify,
}

impl Watching {
    /// The same for the readers of logs: where they can spool, they go on when the watch is over.
    fn for_readers(&self) -> Arc<Self> {
        let lost = if self.context.spool.is_some() {
            CancellationToken::new()
        } else {
            self.lost.clone()
        };
        Arc::new(Self {
            context: self.context.clone(),
            watch: self.watch.clone(),
            ended: Notify::new(),
            lost,
            returned: Notify::new(),
            hindered: Notify::new(),
        })
    }

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
