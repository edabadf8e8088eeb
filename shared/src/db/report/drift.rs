//! Processes that are not seen as they are wanted.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::process::{Lifecycle, ProcessKind};
use crate::service;

/// Kinds of drift, as the view spells them.
const KINDS: [&str; 4] = ["missing", "extra", "different", "stuck"];

/// One line of the view `drift`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The process.
    pub process: Uuid,
    /// Name of its objects.
    pub name: String,
    /// `missing`, `extra`, `different` or `stuck`.
    pub what: String,
    /// Whether a command of it waits or is carried out, which may end this.
    pub in_hand: bool,
    /// For how long it has been so, at least.
    pub since: DateTime<Utc>,
    /// The facts.
    pub words: String,
}

/// All drift of a cluster, the oldest first.
///
/// # Errors
/// When Postgres is away.
pub async fn drift(pool: &PgPool, cluster: &str) -> Result<Vec<Drift>, sqlx::Error> {
    sqlx::query_as!(
        Drift,
        r#"select process_id as "process!", name as "name!", what as "what!", in_hand as "in_hand!", since as "since!", words as "words!"
             from drift where cluster = $1 order by since, process_id, what"#,
        cluster
    )
    .fetch_all(pool)
    .await
}

/// How much there is of each kind, and 0 where there is none.
///
/// # Errors
/// When Postgres is away.
pub async fn drift_counts(pool: &PgPool, cluster: &str) -> Result<Vec<(&'static str, i64)>, sqlx::Error> {
    let counted = sqlx::query!(
        r#"select what as "what!", count(*) as "count!" from drift where cluster = $1 group by what"#,
        cluster
    )
    .fetch_all(pool)
    .await?;
    let count = |kind: &str| counted.iter().find(|row| row.what == kind).map_or(0, |row| row.count);
    Ok(KINDS.map(|kind| (kind, count(kind))).to_vec())
}

/// What is wanted of a process, to compare its objects with.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The process.
    pub id: Uuid,
    /// Name of its objects.
    pub name: String,
    /// `service` or `task`.
    pub kind: ProcessKind,
    /// Whether it was asked to end.
    pub killed: bool,
    /// How far it has come.
    pub lifecycle: Lifecycle,
    /// Revision and restart ([`service::wish`]).
    pub wish: String,
    /// Pods of a service that are wanted.
    pub replicas: i32,
}

/// The processes of a cluster that are not gone, and those that are named.
///
/// # Errors
/// When Postgres is away.
pub async fn wanted(pool: &PgPool, cluster: &str, named: &[Uuid]) -> Result<Vec<Wanted>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select p.id, p.name, p.kind as "kind: ProcessKind", p.desired = 'killed' as "killed!", p.lifecycle as "lifecycle: Lifecycle",
                  p.replicas, p.restarted_at, r.number
             from process p join revision r on r.id = p.revision_id
            where p.id = any($2) or (p.cluster = $1 and p.lifecycle < 'gone')
            order by p.id"#,
        cluster,
        named
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Wanted {
            id: row.id,
            name: row.name,
            kind: row.kind,
            killed: row.killed,
            lifecycle: row.lifecycle,
            wish: service::wish(row.number, row.restarted_at),
            replicas: row.replicas,
        })
        .collect())
}
