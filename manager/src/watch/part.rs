//! Which shards of the cluster this manager watches, and the watch of them. The part changes with the managers that take part.

use std::sync::Arc;
use std::time::Duration;

use octopus_shared::db::claim;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::watch;
use crate::context::Context;
use crate::session::jittered;

/// A manager that cannot reach the cluster for so long leaves its part to others, if there are any.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches this manager's part until `over`.
pub async fn run(context: Arc<Context>, instance: Uuid, over: CancellationToken) {
    let retry = jittered(context.config.lease() / 5).min(Duration::from_secs(3));
    let mut part = Part {
        context,
        instance,
        over,
        running: None,
        reached: Instant::now(),
    };
    while !part.over.is_cancelled() {
        if let Err(error) = part.look().await {
            tracing::warn!(error = %error, "the division of the watch cannot be seen or changed");
        }
        tokio::select! { () = part.over.cancelled() => {}, () = sleep(retry) => {} }
    }
    part.end().await;
}

struct Part {
    context: Arc<Context>,
    instance: Uuid,
    over: CancellationToken,
    running: Option<Running>,
    /// When the cluster last answered.
    reached: Instant,
}

/// A watch that is going on.
struct Running {
    lost: CancellationToken,
    task: JoinHandle<()>,
}

impl Part {
    /// Looks at the division, and starts over with another part where it has changed. After an error the next look goes on.
    async fn look(&mut self) -> Result<(), sqlx::Error> {
        let (context, instance) = (self.context.clone(), self.instance);
        let (pool, cluster) = (&context.pool, context.config.cluster.as_str());
        self.running.take_if(|running| running.task.is_finished());
        let division = claim::division(pool, instance, cluster).await?;
        if !self.reaches().await {
            let is_missed = self.running.is_some() && (division.managers == 1 || self.reached.elapsed() < PATIENCE);
            if division.takes_part && !is_missed {
                self.end().await;
                claim::leave(pool, instance, cluster).await?;
            }
            return Ok(());
        }
        let wanted = match division.wanted() {
            None if self.running.is_some() || division.held.is_empty() => return Ok(()),
            None => division.held,
            Some(wanted) => wanted,
        };
        self.end().await;
        let held = claim::divide(pool, instance, cluster, &wanted).await?;
        if let Some(mut held) = held.filter(|held| !held.shards.is_empty()) {
            held.spool = context.spool.as_ref().map(|spool| spool.id);
            tracing::info!(held.token, shards = ?held.shards, "watching the cluster");
            let lost = self.over.child_token();
            let task = tokio::spawn(watch(context, held, lost.clone(), self.over.clone()));
            self.running = Some(Running { lost, task });
        }
        Ok(())
    }

    /// Whether the cluster answers. A watch that is going on asks for itself.
    async fn reaches(&mut self) -> bool {
        let health = &self.context.health;
        if self.running.is_none() {
            self.context.cluster_answers().await;
        }
        if health.cluster() {
            self.reached = Instant::now();
        }
        health.cluster()
    }

    /// Ends the watch, and waits until nothing of it writes any more.
    async fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.lost.cancel();
            // It has ended or it panicked: it writes no more.
            let _ = running.task.await;
        }
    }
}
