//! One lease: from registering an instance to its last beat. Everything a manager does happens within a session, and all
//! of it stops when the session's own monotonic clock says that its lease is over.

use std::sync::Arc;
use std::time::Duration;

use octopus_shared::db::claim;
use rand::RngExt;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::context::Context;
use crate::shutdown::Shutdown;
use crate::{watch, worker};

/// What is under way in a session whose lease is over has this long to end by itself.
const ENDING: Duration = Duration::from_secs(1);

/// Runs sessions, one after another, until `shutdown`.
pub async fn run(context: &Arc<Context>, shutdown: &Shutdown) {
    while !shutdown.drain.is_cancelled() {
        let instance = Uuid::new_v4();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let since = Instant::now();
        let lease = context.config.lease();
        let registered = timeout(lease, register(context, instance, host.trim())).await;
        // What is not answered by then would be over.
        match registered.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok(()) => session(context, instance, since, shutdown).await,
            Err(error) => {
                tracing::warn!(error = %error, "waiting for Postgres");
                tokio::select! { () = shutdown.drain.cancelled() => {}, () = sleep(jittered(Duration::from_secs(1))) => {} }
            }
        }
        context.health.set_leased(false);
    }
}

/// Takes a lease. What an earlier process on the same disk held is free at once.
async fn register(context: &Context, instance: Uuid, host: &str) -> Result<(), sqlx::Error> {
    let config = &context.config;
    claim::register(&context.pool, instance, &config.cluster, host, config.lease()).await?;
    if let Some(spool) = &context.spool
        && claim::succeed(&context.pool, instance, spool.id).await? > 0
    {
        tracing::info!(spool.id = %spool.id, "an earlier manager on this disk has died; what it held is taken over at once");
    }
    Ok(())
}

async fn session(context: &Arc<Context>, instance: Uuid, since: Instant, shutdown: &Shutdown) {
    tracing::info!(manager.instance = %instance, "lease taken");
    context.health.set_leased(true);
    // Ends everything of this session: its lease is over, or the manager is to stop at once.
    let over = shutdown.abort.child_token();
    let beating = tokio::spawn(beat(context.clone(), instance, since, over.clone()));
    let watching = tokio::spawn(watch::run(context.clone(), instance, over.clone()));
    worker::run(context, instance, &shutdown.drain, &over).await;

    over.cancel();
    for mut part in [watching, beating] {
        // What waits for Postgres may wait for ever.
        if timeout(ENDING, &mut part).await.is_err() {
            part.abort();
        }
    }
    match timeout(Duration::from_secs(5), claim::sign_off(&context.pool, instance)).await {
        Ok(Ok(())) => tracing::info!(manager.instance = %instance, "lease given back"),
        Ok(Err(error)) => tracing::warn!(error = %error, "the lease was not given back; it ends by itself"),
        Err(_) => tracing::warn!("the lease was not given back in time; it ends by itself"),
    }
}

/// Extends the lease three times within its length. Cancels `over` before Postgres could give it to somebody else.
async fn beat(context: Arc<Context>, instance: Uuid, since: Instant, over: CancellationToken) {
    let lease = context.config.lease();
    let mut ends = since + lease;
    loop {
        tokio::select! {
            () = over.cancelled() => return,
            () = sleep(jittered(lease / 3)) => {}
            // Not at once again: others that were in use at that time are found dead one by one.
            () = context.silence.noticed(), if since.elapsed() > lease / 2 => {
                tracing::error!("a connection to Postgres died without a word, and others with it; starting over");
                break;
            }
        }
        // The lease counts from before the request: whatever time it takes is lost to us, not to others.
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = claim::beat(&context.pool, instance, lease) => answer,
            () = sleep_until(ends) => {
                tracing::error!("the lease has ended without an answer from Postgres; starting over");
                break;
            }
        };
        match answer {
            Ok(true) => ends = asked + lease,
            Ok(false) => {
                tracing::error!("the lease has ended; starting over");
                break;
            }
            Err(error) => {
                tracing::warn!(error = %error, "beat failed");
                if Instant::now() >= ends {
                    break;
                }
            }
        }
    }
    metrics::counter!("octopus_manager_leases_lost_total").increment(1);
    over.cancel();
}

/// Between four and six fifths of `duration`, so that managers started together drift apart.
pub(crate) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.8..1.2))
}
