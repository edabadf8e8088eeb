//! Connections that die without a word: a host that fails, a firewall that forgets. Nothing ends them for hours, so whoever
//! waits for an answer has to doubt it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgNotification};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::Notify;
use tokio::time::timeout;

/// A connection of a pool answers a ping within this, or is taken for dead.
const ANSWER: Duration = Duration::from_secs(2);
/// A listener that heard nothing for so long asks whether somebody is there.
const QUIET: Duration = Duration::from_secs(15);

/// Told when a connection was found dead. What is under way on others will not be answered either.
pub type Silence = Arc<Notify>;

/// Whether a connection lives.
pub(super) async fn answers(connection: &mut PgConnection, silence: &Notify) -> Result<bool, sqlx::Error> {
    match timeout(ANSWER, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => {
            silence.notify_waiters();
            // An error and not `false`: it is dropped then, and no goodbye is said that nobody would hear.
            Err(sqlx::Error::PoolTimedOut)
        }
    }
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
