//! Announces new commands to managers, and their effects to the other API processes: after the commit, from one task,
//! the first at once and what follows gathered. A NOTIFY inside the inserting transaction would line up all of them at its lock.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use octopus_shared::db::view::CommandView;
use octopus_shared::db::{CHANGE_CHANNEL, COMMAND_CHANNEL, notify_all};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PAUSE: Duration = Duration::from_millis(25);
/// Ids in one announcement at most; NOTIFY takes 8000 bytes.
const MAX_IDS: usize = 200;

#[derive(Debug, Default)]
struct Pending {
    clusters: BTreeSet<String>,
    changed: BTreeSet<Uuid>,
}

/// What this process has to announce.
#[derive(Clone, Debug, Default)]
pub struct Announcer {
    pending: Arc<Mutex<Pending>>,
    wake: Arc<Notify>,
}

impl Announcer {
    /// Announces a command that was stored.
    pub fn stored(&self, command: &CommandView) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.clusters.insert(command.cluster.clone());
        pending.changed.extend(
            [Some(command.id), command.process_id, command.target_command]
                .into_iter()
                .flatten(),
        );
        drop(pending);
        self.wake.notify_one();
    }

    /// Sends what is to be announced until `stopping`. What is stored after that takes a `flush`.
    pub fn run(&self, pool: PgPool, stopping: CancellationToken) -> impl Future<Output = ()> + use<> {
        let announcer = self.clone();
        async move {
            while !stopping.is_cancelled() {
                tokio::select! {
                    () = announcer.wake.notified() => {}
                    () = stopping.cancelled() => {}
                }
                announcer.flush(&pool).await;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Sends what is to be announced now.
    pub async fn flush(&self, pool: &PgPool) {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let commands = pending.clusters.into_iter().map(|cluster| (COMMAND_CHANNEL, cluster));
        let changed = changed(&pending.changed).map(|payload| (CHANGE_CHANNEL, payload));
        let all: Vec<_> = commands.chain(changed).collect();
        if all.is_empty() {
            return;
        }
        if let Err(error) = notify_all(pool, &all).await {
            tracing::debug!(error = %error, "not announced; those concerned poll");
        }
    }
}

fn changed(ids: &BTreeSet<Uuid>) -> Option<String> {
    match ids.len() {
        0 => None,
        1..=MAX_IDS => Some(ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",")),
        _ => Some("*".to_owned()),
    }
}
