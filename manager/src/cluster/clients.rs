//! The clients of the API server. When it says nothing their connections have died, those that lie idle too, and each of them
//! would keep a call for the whole of its limit: so the clients are made anew, and who waits for an answer is told when the
//! API server is back. What it then says of nodes is not news at first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::time::Instant;

use super::token::{self, Bearer};

/// A watch is ended by the API server before it could be silent for so long.
const WATCH_SILENCE: Duration = Duration::from_secs(75);
/// While the API server is away no kubelet reports to it, and Kubernetes takes the nodes for lost. They report each 10 s, and after
/// an absence when they have connected again.
const NODES_REPORT_WITHIN: Duration = Duration::from_secs(60);

/// Both clients, shared by all who use them.
#[derive(Clone)]
pub(super) struct Clients(Arc<Shared>);

struct Shared {
    settings: kube::Config,
    bearer: Bearer,
    /// For calls; and for watches, which end when they are silent.
    both: RwLock<[Client; 2]>,
    silent: AtomicBool,
    /// Whether the last ping was not answered.
    away: AtomicBool,
    /// When it was answered again, the last time.
    returned: RwLock<Option<Instant>>,
    /// When a ping was not answered or a watch was interrupted, the last time; or when pings were answered again.
    missed: RwLock<Option<Instant>>,
    /// How often the API server has come back from silence.
    revived: watch::Sender<u64>,
}

impl Clients {
    pub(super) fn new(settings: kube::Config, bearer: &Bearer) -> Result<Self, kube::Error> {
        Ok(Self(Arc::new(Shared {
            both: RwLock::new(make(&settings, bearer)?),
            settings,
            bearer: bearer.clone(),
            silent: AtomicBool::default(),
            away: AtomicBool::default(),
            returned: RwLock::default(),
            missed: RwLock::default(),
            revived: watch::Sender::default(),
        })))
    }

    pub(super) fn calling(&self) -> Client {
        self.0.both.read().unwrap_or_else(PoisonError::into_inner)[0].clone()
    }

    pub(super) fn watching(&self) -> Client {
        self.0.both.read().unwrap_or_else(PoisonError::into_inner)[1].clone()
    }

    /// The API server says nothing: no connection of before is used again.
    pub(super) fn silent(&self) {
        self.0.silent.store(true, Ordering::Relaxed);
        match make(&self.0.settings, &self.0.bearer) {
            Ok(both) => *self.0.both.write().unwrap_or_else(PoisonError::into_inner) = both,
            Err(error) => tracing::warn!(error = %error, "the API server's client was not made anew"),
        }
    }

    /// The API server does not answer.
    pub(super) fn away(&self) {
        self.0.away.store(true, Ordering::Relaxed);
        self.missed(Instant::now());
    }

    /// It may have been away for a moment.
    pub(super) fn missed(&self, now: Instant) {
        *self.0.missed.write().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Whether that was within such a time before `now`.
    pub(super) fn was_missed(&self, now: Instant, within: Duration) -> bool {
        let missed = *self.0.missed.read().unwrap_or_else(PoisonError::into_inner);
        missed.is_some_and(|missed| now.saturating_duration_since(missed) < within)
    }

    /// Whether kubelets have had the time by `now` to report to the API server.
    pub(super) fn know_nodes(&self, now: Instant) -> bool {
        let returned = *self.0.returned.read().unwrap_or_else(PoisonError::into_inner);
        let is_long_ago = |returned: Instant| now - returned > NODES_REPORT_WITHIN;
        !self.0.away.load(Ordering::Relaxed) && returned.is_none_or(is_long_ago)
    }

    /// The API server answers.
    pub(super) fn answered(&self) {
        if self.0.away.swap(false, Ordering::Relaxed) {
            let now = Instant::now();
            *self.0.returned.write().unwrap_or_else(PoisonError::into_inner) = Some(now);
            self.missed(now);
        }
        if self.0.silent.swap(false, Ordering::Relaxed) {
            self.0.revived.send_modify(|times| *times += 1);
        }
    }

    pub(super) fn revived(&self) -> watch::Receiver<u64> {
        self.0.revived.subscribe()
    }
}

fn make(settings: &kube::Config, bearer: &Bearer) -> Result<[Client; 2], kube::Error> {
    let calling = token::client(settings.clone(), bearer)?;
    let mut settings = settings.clone();
    settings.read_timeout = Some(WATCH_SILENCE);
    Ok([calling, token::client(settings, bearer)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_nodes_is_known_what_kubelets_had_the_time_to_report() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = "http://127.0.0.1:1".parse().unwrap();
        let clients = Clients::new(kube::Config::new(server), &Bearer::default()).unwrap();
        let now = Instant::now();
        clients.answered();
        assert!(clients.know_nodes(now), "it was never away");
        clients.away();
        assert!(!clients.know_nodes(now + 10 * NODES_REPORT_WITHIN));
        clients.answered();
        clients.answered();
        assert!(!clients.know_nodes(now + NODES_REPORT_WITHIN));
        assert!(clients.know_nodes(Instant::now() + 2 * NODES_REPORT_WITHIN));
    }

    #[tokio::test]
    async fn an_absence_is_remembered_from_its_end_whoever_saw_it() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = "http://127.0.0.1:1".parse().unwrap();
        let clients = Clients::new(kube::Config::new(server), &Bearer::default()).unwrap();
        let (within, now) = (Duration::from_secs(12), Instant::now());
        clients.answered();
        assert!(!clients.was_missed(now, within), "it was never away");
        clients.missed(now);
        assert!(clients.was_missed(now + within / 2, within) && !clients.was_missed(now + within, within));
        assert!(clients.know_nodes(now), "a watch says little of its nodes");
        clients.away();
        assert!(clients.was_missed(now, within));
        clients.missed(now - within);
        assert!(!clients.was_missed(now, within), "away since long");
        clients.answered();
        assert!(clients.was_missed(now, within), "no kubelet could report before");
    }

    #[tokio::test]
    async fn a_silence_ends_once_and_leaves_no_connection_behind() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Says nothing, and keeps count of who asks.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let clients = Clients::new(kube::Config::new(address.parse().unwrap()), &Bearer::default()).unwrap();
        let mut revived = clients.revived();
        clients.answered();
        assert!(!revived.has_changed().unwrap(), "it was never silent");

        let before = clients.calling();
        clients.silent();
        clients.silent();
        let ask = |client: Client| tokio::spawn(async move { client.apiserver_version().await.map(drop) });
        let (old, new) = (ask(before), ask(clients.calling()));
        let connections = [listener.accept().await.unwrap(), listener.accept().await.unwrap()];
        assert!(!revived.has_changed().unwrap(), "it is silent still");
        clients.answered();
        clients.answered();
        assert!(revived.has_changed().unwrap());
        assert_eq!(*revived.borrow_and_update(), 1);
        drop(connections);
        assert!(old.await.unwrap().is_err() && new.await.unwrap().is_err());
    }
}
