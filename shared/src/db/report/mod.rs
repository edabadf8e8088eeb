//! Cluster -> rows. Every write carries a fencing token; a stale one changes nothing and answers [`ReportError::Fenced`].

mod build;
mod change;
mod chunk;
mod cluster;
mod drift;
mod fill;
mod hole;
mod limit;
mod merge;
mod place;
mod pod;
mod process;
mod settle;
mod spooled;
mod stream;

pub use build::{
    BuildSource, BuiltImage, CachedLayer, build_failed, build_printed, build_source, build_stands, build_started,
    build_succeeded, layer, put_layer,
};
pub use change::{Change, RevisionRow, change, changed, put_off, revision, scaled};
pub use chunk::{Chunk, Seam, append_chunks, last_line_before, last_seqs};
pub use cluster::{ClusterReport, report_cluster, report_preflight};
pub use drift::{Drift, Wanted, drift, drift_counts, wanted};
pub use hole::number;
pub use limit::{Dropped, drop_oldest};
pub use merge::{Merged, Unmerged, merge_step, unmerged};
pub use pod::{
    REMOVED_AT_ONCE, Removable, WaitingPod, finished_pods, hindered_services, live_pods, mark_missing, observe_pods,
    pods_refused, waiting_pods,
};
pub use process::{
    Creation, ProcessRow, RowBehind, childless, created, gone, has_claim, hindered, is_killed, live_processes_of,
    logs_open, process, processes, rows_behind, stopping, vanished,
};
pub use spooled::{LogMessage, Replayed, replay};
pub use stream::{
    OpenStream, Opened, Seal, StreamCursor, StreamKey, open_streams, seal_stream, set_reader, unsealed_streams,
};

use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use crate::db::claim::Claim;

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The claim or the watch belongs to another manager now.
    #[error("another manager has taken this over")]
    Fenced,
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The right to write back what is seen of shards of a cluster.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The cluster.
    pub cluster: String,
    /// The shards, in order.
    pub shards: Vec<i16>,
    /// Fencing token.
    pub token: i64,
    /// Where its manager keeps what it has read of logs and cannot store.
    pub spool: Option<uuid::Uuid>,
}

/// A transaction in which the claim is ours and stays ours until it ends.
async fn claimed(pool: &PgPool, claim: &Claim) -> Result<Transaction<'static, Postgres>, ReportError> {
    let mut transaction = crate::db::begin(pool).await?;
    let held = sqlx::query!(
        "select seq from command_lease where seq = $1 and token = $2 for update",
        claim.seq,
        claim.token
    )
    .fetch_optional(&mut *transaction)
    .await?;
    held.map(|_| transaction).ok_or(ReportError::Fenced)
}

/// A transaction in which the watch is ours: a takeover waits for its end.
async fn watched(pool: &PgPool, watch: &Watch) -> Result<Transaction<'static, Postgres>, ReportError> {
    let mut transaction = crate::db::begin(pool).await?;
    let held = sqlx::query!(
        "select token from watch_lease where cluster = $1 and token = $2 for share",
        watch.cluster,
        watch.token
    )
    .fetch_optional(&mut *transaction)
    .await?;
    held.map(|_| transaction).ok_or(ReportError::Fenced)
}

/// Calls the database's own `transition`.
#[expect(clippy::too_many_arguments, reason = "the columns of an event")]
async fn transition(
    connection: &mut PgConnection,
    process: uuid::Uuid,
    lifecycle: crate::process::Lifecycle,
    verdict: &crate::pod::Verdict,
    remedy: Option<&str>,
    pod_uid: Option<&str>,
    resource_version: Option<&str>,
    message: Option<&str>,
) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query_scalar!(
        "select transition($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        process,
        lifecycle as crate::process::Lifecycle,
        verdict.state.as_str(),
        verdict.reason.map(|reason| reason.id),
        message.or(verdict.message.as_deref()),
        remedy
            .or(verdict.reason.map(|reason| reason.remedy))
            .filter(|remedy| !remedy.is_empty()),
        verdict.exit_code,
        pod_uid,
        resource_version
    )
    .fetch_one(connection)
    .await?
    .unwrap_or(false))
}

/// Postgres' clock.
///
/// # Errors
/// When Postgres is away.
pub async fn clock(pool: &PgPool) -> Result<chrono::DateTime<chrono::Utc>, sqlx::Error> {
    sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#)
        .fetch_one(pool)
        .await
}
