//! What the watching manager sees of its cluster.

use serde_json::Value;
use sqlx::PgPool;

use super::{ReportError, Watch, watched};

/// One look at a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterReport {
    /// Whether its API server answered.
    pub reachable: bool,
    /// The API server's gitVersion.
    pub version: Option<String>,
    /// Whether NetworkPolicy is known to be enforced.
    pub policy_enforced: Option<bool>,
    /// ResourceQuota of the function namespace.
    pub quota: Value,
    /// Why it is not reachable.
    pub message: Option<String>,
    /// Why objects without a row are left alone at the moment.
    pub reconcile_halted: Option<String>,
}

/// Stores one look.
///
/// # Errors
/// [`ReportError`].
pub async fn report_cluster(pool: &PgPool, watch: &Watch, report: &ClusterReport) -> Result<(), ReportError> {
    let mut transaction = watched(pool, watch).await?;
    sqlx::query!(
        "insert into cluster (name, reachable, version, policy_enforced, quota, message, reconcile_halted)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (name) do update
            set reachable = excluded.reachable, version = coalesce(excluded.version, cluster.version),
                policy_enforced = coalesce(excluded.policy_enforced, cluster.policy_enforced),
                quota = case when excluded.reachable then excluded.quota else cluster.quota end,
                message = excluded.message, reconcile_halted = excluded.reconcile_halted, reported_at = now()",
        watch.cluster,
        report.reachable,
        report.version,
        report.policy_enforced,
        report.quota,
        report.message,
        report.reconcile_halted
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}
