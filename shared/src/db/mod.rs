//! Every query of the project: `enqueue` and `view` serve the API, `claim` and `report` serve the manager.

pub mod claim;
pub mod enqueue;
pub mod report;
mod schema;
mod silence;
pub mod view;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool, Postgres, Transaction};

pub use self::schema::{SCHEMA, outdated};
pub use self::silence::{Silence, hear, soon};

/// Channel on which API processes announce that commands wait. The payload is the cluster's name, or empty for any.
pub const COMMAND_CHANNEL: &str = "octopus_command";
/// Channel on which managers announce what changed. The payload is a comma-separated list of ids of processes and
/// commands, or `*` for too many.
pub const CHANGE_CHANNEL: &str = "octopus_change";

/// A session whose client was cut off would hold the locks of its transaction for hours.
const LEFT_ALONE: &str = "set idle_in_transaction_session_timeout = '10s'; set tcp_user_timeout = '20s';
    set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3";

/// What a connection may take to be had, and to be made: one that was begun into a silence is never answered. What is not had by
/// then is tried again by a manager.
const CONNECTION: Duration = Duration::from_secs(4);
/// The same for callers, who are told that Postgres is away.
const CONNECTION_OF_CALLERS: Duration = Duration::from_secs(8);

/// A pool of at most `size` connections for what callers ask. It connects when it is first used, so a database that is away
/// delays nothing.
///
/// # Errors
/// A URL that is not one of Postgres.
pub fn pool(url: &str, size: u32) -> Result<PgPool, sqlx::Error> {
    pool_within(url, size, &Silence::default(), CONNECTION_OF_CALLERS)
}

/// A pool for a manager, whose `silence` is told when one of its connections has died without a word.
///
/// # Errors
/// A URL that is not one of Postgres.
pub fn pool_telling(url: &str, size: u32, silence: &Silence) -> Result<PgPool, sqlx::Error> {
    pool_within(url, size, silence, CONNECTION)
}

fn pool_within(url: &str, size: u32, silence: &Silence, connection: Duration) -> Result<PgPool, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    let (taken, returned) = (silence.clone(), silence.clone());
    Ok(PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(connection)
        .after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(LEFT_ALONE).execute(connection).await.map(|_| ()) })
        })
        // The pool's own pings wait for ever: on taking a connection, and on returning one whose query was dropped.
        .test_before_acquire(false)
        .before_acquire(move |connection, known| {
            let silence = taken.clone();
            Box::pin(async move { silence::rested(connection, known, &silence).await })
        })
        .after_release(move |connection, known| {
            let silence = returned.clone();
            Box::pin(async move { silence::answers(connection, known, &silence).await })
        })
        .connect_lazy_with(options.log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(2))))
}

/// Begins a transaction, whole or not at all, whatever becomes of the caller: a request whose client hangs up and work whose
/// lease has ended are dropped at any await. sqlx 0.9 does not know yet of a transaction whose BEGIN is under way; dropped
/// there, its connection went back to the pool within that transaction, and what the next one wrote was not committed.
///
/// # Errors
/// When Postgres is away.
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    #[expect(clippy::disallowed_methods, reason = "the one place where it cannot be dropped")]
    let beginning = tokio::spawn(async move { pool.begin().await });
    beginning.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// Announces something on a channel. Never inside a transaction that inserts: the lock that NOTIFY takes at commit
/// would line up all of them.
///
/// # Errors
/// When Postgres is away; listeners poll, so nothing is lost.
pub async fn notify(pool: &PgPool, channel: &str, payload: &str) -> Result<(), sqlx::Error> {
    notify_all(pool, &[(channel, payload.to_owned())]).await
}

/// The same for several, each a channel and what is announced there, with one commit. It waits for no disk: what is lost
/// with the server is found by polling, as everything is that is announced.
///
/// # Errors
/// When Postgres is away; listeners poll, so nothing is lost.
pub async fn notify_all(pool: &PgPool, announcements: &[(&str, String)]) -> Result<(), sqlx::Error> {
    let (channels, payloads): (Vec<String>, Vec<String>) = announcements
        .iter()
        .map(|(channel, payload)| ((*channel).to_owned(), payload.clone()))
        .unzip();
    sqlx::query!(
        "select pg_notify(channel, payload) from unnest($1::text[], $2::text[]) as said (channel, payload)
          where set_config('synchronous_commit', 'off', true) = 'off'",
        &channels,
        &payloads
    )
    .execute(pool)
    .await?;
    Ok(())
}
