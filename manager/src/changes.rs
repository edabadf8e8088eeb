//! Tells the API processes what changed: one debounced task, never inside a transaction.

use std::collections::HashSet;
use std::time::Duration;

use octopus_shared::db;
use sqlx::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Ids in one announcement at most; NOTIFY takes 8000 bytes.
const MAX_IDS: usize = 200;
const DEBOUNCE: Duration = Duration::from_millis(5);

/// Announces changed processes and commands.
#[derive(Clone, Debug)]
pub struct Changes(mpsc::UnboundedSender<Uuid>);

impl Changes {
    /// Starts the announcing task. It ends when the last handle is dropped.
    pub fn start(pool: PgPool) -> Self {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut ids = Vec::new();
            while receiver.recv_many(&mut ids, 100_000).await > 0 {
                tokio::time::sleep(DEBOUNCE).await;
                while let Ok(id) = receiver.try_recv() {
                    ids.push(id);
                }
                let changed: HashSet<Uuid> = ids.drain(..).collect();
                if let Err(error) = db::notify(&pool, db::CHANGE_CHANNEL, &payload(&changed)).await {
                    // Readers poll: they see it a little later.
                    tracing::debug!(error = %error, "a change was not announced");
                }
            }
        });
        Self(sender)
    }

    /// Announces that something about `id` has changed.
    pub fn announce(&self, id: Uuid) {
        // Fails only while the runtime shuts down.
        let _ = self.0.send(id);
    }
}

fn payload(ids: &HashSet<Uuid>) -> String {
    if ids.len() > MAX_IDS {
        return "*".into();
    }
    ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_become_a_star() {
        let ids = |count| (0..count).map(|_| Uuid::now_v7()).collect::<HashSet<_>>();
        assert_eq!(payload(&ids(MAX_IDS + 1)), "*");
        let full = payload(&ids(MAX_IDS));
        assert!(full.len() < 8000 && full.split(',').count() == MAX_IDS);
    }
}
