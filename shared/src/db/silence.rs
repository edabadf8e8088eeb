//! Connections that die without a word: a host that fails, a firewall that forgets. Nothing ends them for hours, so whoever
//! waits for an answer has to doubt it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgListener, PgNotification};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// A connection of a pool answers a ping within this, or is taken for dead.
const ANSWER: Duration = Duration::from_secs(2);
/// A connection that was given back within this has answered then, and is taken again without a question.
const FRESH: Duration = Duration::from_millis(100);
/// A listener that heard nothing for so long asks whether somebody is there.
const QUIET: Duration = Duration::from_secs(15);

/// When a connection of a pool was last found dead, for all that wait for answers on others. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Silence(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    noticed: Notify,
    /// No connection from before this moment is trusted any more.
    since: Mutex<Option<Instant>>,
}

impl Silence {
    /// Returns when the next connection is found dead. What is under way on others will not be answered either.
    pub async fn noticed(&self) {
        self.0.noticed.notified().await;
    }

    fn notice(&self, since: Instant) {
        let mut latest = self.0.since.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = (*latest).max(Some(since));
        drop(latest);
        self.0.noticed.notify_waiters();
    }

    fn suspects(&self, age: Duration) -> bool {
        let since = *self.0.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < age)
    }

    fn trusts(&self, age: Duration) -> Result<(), sqlx::Error> {
        if self.suspects(age) {
            return Err(sqlx::Error::PoolTimedOut);
        }
        Ok(())
    }
}

/// Whether a connection lives. Those that are as old as one that was found dead are not asked: a pool of them would be found
/// dead one by one, each after its own wait. An error and not `false`: it is dropped then, and no goodbye is said that nobody
/// would hear.
pub(super) async fn answers(
    connection: &mut PgConnection,
    known: PoolConnectionMetadata,
    silence: &Silence,
) -> Result<bool, sqlx::Error> {
    silence.trusts(known.age)?;
    match timeout(ANSWER, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// The same of one that nobody used: it tells of others as well. One that is given back may be busy with what nobody waits for
/// any more.
pub(super) async fn rested(
    connection: &mut PgConnection,
    known: PoolConnectionMetadata,
    silence: &Silence,
) -> Result<bool, sqlx::Error> {
    if known.idle_for < FRESH {
        return silence.trusts(known.age).map(|()| true);
    }
    let asked = Instant::now();
    let answer = answers(connection, known, silence).await;
    if asked.elapsed() >= ANSWER {
        silence.notice(asked);
    }
    answer
}

/// What is awaited, if Postgres answers within the time that it takes to find one connection dead and to ask on another: on one
/// that has just been used, and has died since, nobody ever would.
///
/// # Errors
/// Those of what is awaited, and when it is not answered.
pub async fn soon<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(2 * ANSWER, asked)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// The next announcement. None: the connection is lost, and with it what was announced meanwhile.
///
/// # Errors
/// When Postgres ends the connection with a reason.
pub async fn hear(listener: &mut PgListener) -> Result<Option<PgNotification>, sqlx::Error> {
    loop {
        match timeout(QUIET, listener.try_recv()).await {
            Ok(heard) => return heard,
            Err(_) => match timeout(ANSWER, listener.execute("select")).await {
                Ok(answer) => answer.map(|_| ())?,
                Err(_) => return Ok(None),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(seconds: u64) -> Instant {
        Instant::now() - Duration::from_secs(seconds)
    }

    #[test]
    fn only_connections_from_before_a_silence_are_suspected() {
        let silence = Silence::default();
        let suspects = |silence: &Silence, seconds| silence.suspects(Duration::from_secs(seconds));
        assert!(!suspects(&silence, 3600));
        silence.notice(ago(50));
        assert!(suspects(&silence, 60));
        assert!(!suspects(&silence, 40), "opened since");
        // What is noticed late began before.
        silence.notice(ago(100));
        assert!(suspects(&silence, 60));
    }
}
