//! Hears what managers announce and wakes those who wait for it. One connection for all of them; polling is the fallback.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use octopus_shared::db::{self, CHANGE_CHANNEL};
use sqlx::postgres::PgListener;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const RECONNECT: Duration = Duration::from_secs(1);

/// What may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Everything,
    Of(HashSet<Uuid>),
}

impl Change {
    fn parse(payload: &str) -> Self {
        payload
            .split(',')
            .map(|id| id.trim().parse())
            .collect::<Result<_, _>>()
            .map_or(Self::Everything, Self::Of)
    }

    fn concerns(&self, id: Option<Uuid>) -> bool {
        match (self, id) {
            (Self::Everything, _) | (_, None) => true,
            (Self::Of(ids), Some(id)) => ids.contains(&id),
        }
    }
}

/// The announcements of all managers.
#[derive(Clone, Debug)]
pub struct Changes(broadcast::Sender<Arc<Change>>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::channel(1024).0)
    }
}

impl Changes {
    /// Registers interest. Do it before looking: what changes in between is not missed then.
    pub fn subscribe(&self) -> Waiter {
        Waiter(self.0.subscribe())
    }

    /// Listens until `stopping`, reconnecting as often as needed.
    pub fn listen(&self, url: String, stopping: CancellationToken) -> impl Future<Output = ()> + use<> {
        self.clone().keep_listening(url, stopping)
    }

    async fn keep_listening(self, url: String, stopping: CancellationToken) {
        let connected = metrics::gauge!("octopus_api_listener_connected");
        while !stopping.is_cancelled() {
            let lost = tokio::select! {
                ended = self.hear(&url, &connected) => ended,
                () = stopping.cancelled() => return,
            };
            connected.set(0.0);
            self.tell(Change::Everything);
            if let Err(error) = lost {
                tracing::warn!(error = %error, "not listening to managers; answers come by polling");
            }
            tokio::select! {
                () = tokio::time::sleep(RECONNECT) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// One connection's life. Ends when it is lost: what was announced meanwhile is lost with it.
    async fn hear(&self, url: &str, connected: &metrics::Gauge) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect(url).await?;
        listener.listen(CHANGE_CHANNEL).await?;
        connected.set(1.0);
        self.tell(Change::Everything);
        while let Some(notification) = db::hear(&mut listener).await? {
            self.tell(Change::parse(notification.payload()));
        }
        Ok(())
    }

    fn tell(&self, change: Change) {
        // Fails only when nobody waits.
        let _ = self.0.send(Arc::new(change));
    }
}

/// Somebody who waits for changes.
#[derive(Debug)]
pub struct Waiter(broadcast::Receiver<Arc<Change>>);

impl Waiter {
    /// Returns when `id` (or, for none, anything) may have changed, and in any case after one to two seconds. True: it was
    /// announced.
    pub async fn changed(&mut self, id: Option<Uuid>) -> bool {
        self.changed_within(id, Duration::from_millis(rand::random_range(1000..2000)))
            .await
    }

    /// The same, after `limit` in any case.
    pub async fn changed_within(&mut self, id: Option<Uuid>, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.announced(id)).await.is_ok()
    }

    async fn announced(&mut self, id: Option<Uuid>) {
        loop {
            match self.0.recv().await {
                Ok(change) if change.concerns(id) => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
        // Announcements that are already there are answered by the same look.
        while !matches!(
            self.0.try_recv(),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)
        ) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_a_list_of_ids_concerns_everybody() {
        let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
        let listed = Change::parse(&format!("{one},{}", Uuid::now_v7()));
        assert!(listed.concerns(Some(one)) && listed.concerns(None) && !listed.concerns(Some(other)));
        for payload in ["*", "", "nonsense", "a,b"] {
            assert_eq!(Change::parse(payload), Change::Everything, "{payload}");
        }
    }

    #[tokio::test]
    async fn a_waiter_hears_its_own_and_polls_otherwise() {
        let changes = Changes::default();
        let id = Uuid::now_v7();
        let mut waiter = changes.subscribe();
        changes.tell(Change::Of(HashSet::from([Uuid::now_v7()])));
        assert!(
            !waiter.changed_within(Some(id), Duration::from_millis(50)).await,
            "another's change"
        );
        changes.tell(Change::Of(HashSet::from([id])));
        assert!(waiter.changed(Some(id)).await);
        for _ in 0..3000 {
            changes.tell(Change::Of(HashSet::from([Uuid::now_v7()])));
        }
        assert!(waiter.changed(Some(id)).await, "who lagged behind has to look");
    }
}
