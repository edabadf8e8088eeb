//! What the watching manager sees of its cluster.

use serde_json::Value;
use sqlx::PgPool;

use super::{ReportError, Watch, hindered_services, watched};
use crate::preflight::Preflight;

/// One look at a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterReport {
    /// Whether its API server answered.
    pub reachable: bool,
    /// The API server's gitVersion.
    pub version: Option<String>,
    /// ResourceQuota of the function namespace.
    pub quota: Value,
    /// Why it is not reachable.
    pub message: Option<String>,
    /// Why objects without a row are left alone at the moment.
    pub reconcile_halted: Option<String>,
}

/// Stores one look. Answers whether a service has no pod, or waits for new ones: who looks why asks only then.
///
/// # Errors
/// [`ReportError`].
pub async fn report_cluster(pool: &PgPool, watch: &Watch, report: &ClusterReport) -> Result<bool, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    sqlx::query!(
        "insert into cluster (name, reachable, version, quota, message, reconcile_halted)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (name) do update
            set reachable = excluded.reachable, version = coalesce(excluded.version, cluster.version),
                quota = case when excluded.reachable then excluded.quota else cluster.quota end,
                message = excluded.message, reconcile_halted = excluded.reconcile_halted, reported_at = now()",
        watch.cluster,
        report.reachable,
        report.version,
        report.quota,
        report.message,
        report.reconcile_halted
    )
    .execute(&mut *transaction)
    .await?;
    let hindered = hindered_services(&mut *transaction, &watch.cluster).await?;
    transaction.commit().await?;
    Ok(!hindered.is_empty())
}

/// Stores what a preflight found. It needs no watch: it is asked for by a person, beside whoever watches.
///
/// # Errors
/// When Postgres is away.
pub async fn report_preflight(
    pool: &PgPool,
    cluster: &str,
    version: Option<&str>,
    policy_enforced: Option<bool>,
    preflight: &Preflight,
) -> Result<(), sqlx::Error> {
    let findings = serde_json::to_value(&preflight.findings).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        "insert into cluster (name, reachable, version, policy_enforced, preflight, preflight_at)
         values ($1, $2::text is not null, $2, $3, $4, $5)
         on conflict (name) do update
            set version = coalesce(excluded.version, cluster.version), policy_enforced = excluded.policy_enforced,
                preflight = excluded.preflight, preflight_at = excluded.preflight_at",
        cluster,
        version,
        policy_enforced,
        findings,
        preflight.at
    )
    .execute(pool)
    .await?;
    Ok(())
}
