//! Clusters: who serves them, what was seen of them, and what waits for them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::preflight::Preflight;

/// A cluster as its managers last saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// Its managers that are alive now, the oldest first.
    pub managers: Vec<ManagerView>,
    /// Whether its API server answered when it was last asked. Null: no manager has reported yet.
    pub reachable: Option<bool>,
    /// Why it is not reachable.
    pub message: Option<String>,
    /// The API server's version.
    pub version: Option<String>,
    /// Whether the last preflight saw NetworkPolicy enforced. Null: there was none, or it could not tell.
    pub policy_enforced: Option<bool>,
    /// What the last preflight found. Null: there was none.
    pub preflight: Option<Preflight>,
    /// ResourceQuota of the function namespace: `{resource: {hard, used}}`.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub quota: Option<Value>,
    /// Why objects without a row are left alone at the moment. Null: they are not.
    pub reconcile_halted: Option<String>,
    /// When a manager last reported all this.
    pub reported_at: Option<DateTime<Utc>>,
    /// Commands that have not ended.
    pub queue: QueueView,
}

/// A manager that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ManagerView {
    /// A fresh id at every start.
    pub instance: Uuid,
    /// Version of its binary.
    pub version: String,
    /// Its host.
    pub host: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// Its last beat.
    pub beat_at: DateTime<Utc>,
    /// Shards of the cluster's processes, of 12 in all, whose pods it watches and whose logs it reads.
    pub shards: Vec<i16>,
}

/// Commands of a cluster that have not ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueView {
    /// Those that wait to be claimed.
    pub waiting: i64,
    /// Those that wait for an image.
    pub waiting_for_image: i64,
    /// Those that a manager works on.
    pub running: i64,
    /// Age of the oldest one that waits to be claimed.
    pub oldest_waiting_seconds: Option<f64>,
}

/// Every cluster that is named anywhere, by name.
///
/// # Errors
/// When Postgres is away.
pub async fn clusters(pool: &PgPool) -> Result<Vec<ClusterView>, sqlx::Error> {
    select(pool, None).await
}

/// One cluster.
///
/// # Errors
/// When Postgres is away.
pub async fn cluster(pool: &PgPool, name: &str) -> Result<Option<ClusterView>, sqlx::Error> {
    Ok(select(pool, Some(name)).await?.pop())
}

async fn select(pool: &PgPool, name: Option<&str>) -> Result<Vec<ClusterView>, sqlx::Error> {
    let mut managers = managers(pool, name).await?;
    let rows = sqlx::query!(
        r#"with named as (
               select name from cluster
               union select cluster from function where deleted_at is null
               union select cluster from manager where lease_until > now() and stopped_at is null
               union select cluster from command_ready
           ), queue as (
               select cluster, count(*) filter (where waits_for is null) as waiting,
                      count(*) filter (where waits_for is not null) as waiting_for_image,
                      min(seq) filter (where waits_for is null) as oldest
                 from command_ready group by cluster
           )
           select n.name as "name!", c.reachable as "reachable?", c.message, c.version as "version?", c.policy_enforced,
                  c.preflight, c.preflight_at, c.quota as "quota?", c.reconcile_halted, c.reported_at as "reported_at?",
                  coalesce(q.waiting, 0) as "waiting!", coalesce(q.waiting_for_image, 0) as "waiting_for_image!",
                  (select count(*) from command_lease l where l.cluster = n.name) as "running!",
                  (select extract(epoch from now() - o.created_at)::float8 from command o where o.seq = q.oldest) as age
             from named n left join cluster c on c.name = n.name left join queue q on q.cluster = n.name
            where $1::text is null or n.name = $1
            order by n.name"#,
        name
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| ClusterView {
            managers: managers
                .extract_if(.., |(cluster, _)| *cluster == row.name)
                .map(|(_, manager)| manager)
                .collect(),
            name: row.name,
            reachable: row.reachable,
            message: row.message,
            version: row.version,
            policy_enforced: row.policy_enforced,
            preflight: preflight(row.preflight, row.preflight_at),
            quota: row.quota,
            reconcile_halted: row.reconcile_halted,
            reported_at: row.reported_at,
            queue: QueueView {
                waiting: row.waiting,
                waiting_for_image: row.waiting_for_image,
                running: row.running,
                oldest_waiting_seconds: row.age,
            },
        })
        .collect())
}

/// None as well for what a later release has stored in words that this one does not know.
fn preflight(findings: Option<Value>, at: Option<DateTime<Utc>>) -> Option<Preflight> {
    Some(Preflight {
        at: at?,
        findings: serde_json::from_value(findings?).ok()?,
    })
}

async fn managers(pool: &PgPool, cluster: Option<&str>) -> Result<Vec<(String, ManagerView)>, sqlx::Error> {
    Ok(sqlx::query!(
        r#"select m.cluster as "cluster!", m.instance as "instance!", m.version as "version!", m.host as "host!",
                  m.started_at as "started_at!", m.beat_at as "beat_at!", coalesce(w.shards, '{}') as "shards!"
             from manager m left join watch_lease w on w.cluster = m.cluster and w.instance = m.instance
            where m.lease_until > now() and m.stopped_at is null and ($1::text is null or m.cluster = $1)
            order by m.started_at, m.instance"#,
        cluster
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| {
        (
            row.cluster,
            ManagerView {
                instance: row.instance,
                version: row.version,
                host: row.host,
                started_at: row.started_at,
                beat_at: row.beat_at,
                shards: row.shards,
            },
        )
    })
    .collect())
}
