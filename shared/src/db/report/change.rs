//! Changes of a service that runs: what a command asks for becomes what is wanted of the process.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::{ReportError, claimed, settle};
use crate::db::claim::Claim;
use crate::function::FunctionSpec;
use crate::reason::Reason;

/// What a command changes about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New pods, for the restart that was asked for at this time.
    Restart(DateTime<Utc>),
    /// Another revision.
    Revision(Uuid),
    /// Another number of pods.
    Replicas(i32),
}

/// Stores what is wanted now, with an event where that differs from before: the objects are then made from the row, however
/// often. False: the process was asked to end, or has ended.
///
/// # Errors
/// [`ReportError`].
pub async fn change(
    pool: &PgPool,
    claim: &Claim,
    process: Uuid,
    change: &Change,
    (why, words): (Reason, &str),
) -> Result<bool, ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    let runs = sqlx::query_scalar!(
        r#"select desired = 'running' and lifecycle = 'created' as "runs!" from process where id = $1 for update"#,
        process
    )
    .fetch_one(&mut *transaction)
    .await?;
    if !runs {
        return Ok(false);
    }
    let (revision, restart, replicas) = match change {
        Change::Restart(at) => (None, Some(*at), None),
        Change::Revision(id) => (Some(*id), None, None),
        Change::Replicas(number) => (None, None, Some(*number)),
    };
    let changed = sqlx::query!(
        // A restart is the newest one that was asked for, so one that is carried out again changes nothing.
        "with changed as (
             update process
                set revision_id = coalesce($2, revision_id), restarted_at = greatest($3, restarted_at),
                    replicas = coalesce($4, replicas), last_event = last_event + 1
              where id = $1 and (revision_id <> $2 or restarted_at is distinct from greatest($3, restarted_at) or replicas <> $4)
             returning *
         )
         insert into process_event (process_id, number, day, at, cluster, lifecycle, state, reason, message)
         select id, last_event, (clock_timestamp() at time zone 'utc')::date, clock_timestamp(), cluster, lifecycle, state, $5, $6
           from changed",
        process,
        revision,
        restart,
        replicas,
        why.id,
        words
    )
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    if changed > 0 {
        settle::settle_service(&mut transaction, process).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// Records the objects of a process as they are now wanted.
///
/// # Errors
/// [`ReportError`].
pub async fn changed(
    pool: &PgPool,
    claim: &Claim,
    process: Uuid,
    manifest: &Value,
    endpoint: &str,
) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    sqlx::query!(
        "update process set manifest = $2, endpoint = $3 where id = $1 and lifecycle < 'gone'",
        process,
        manifest,
        endpoint
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// Records the number of pods in the objects of a process, which are otherwise as they were.
///
/// # Errors
/// [`ReportError`].
pub async fn scaled(pool: &PgPool, claim: &Claim, process: Uuid) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    sqlx::query!(
        r#"update process
              set manifest = (select jsonb_agg(case when object ->> 'kind' = 'Deployment'
                                                    then jsonb_set(object, '{spec,replicas}', to_jsonb(replicas))
                                                    else object end order by place)
                                from jsonb_array_elements(manifest) with ordinality as objects (object, place))
            where id = $1 and lifecycle < 'gone' and jsonb_typeof(manifest) = 'array'"#,
        process
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// What a change needs to know of a revision.
#[derive(Clone, Debug)]
pub struct RevisionRow {
    /// Its number.
    pub number: i32,
    /// Whether its image is there.
    pub built: bool,
    /// Its settings.
    pub spec: FunctionSpec,
}

/// One revision.
///
/// # Errors
/// When Postgres is away, or the row was written by a release that this one does not understand.
pub async fn revision(pool: &PgPool, id: Uuid) -> Result<RevisionRow, sqlx::Error> {
    let row = sqlx::query!(
        r#"select number, spec, build_state = 'ready' as "built!" from revision where id = $1"#,
        id
    )
    .fetch_one(pool)
    .await?;
    Ok(RevisionRow {
        number: row.number,
        built: row.built,
        spec: serde_json::from_value(row.spec).map_err(|error| sqlx::Error::Decode(error.into()))?,
    })
}

/// Shows at a command that waits what stands against it at the moment.
///
/// # Errors
/// [`ReportError`].
pub async fn put_off(pool: &PgPool, claim: &Claim, why: Reason, message: &str) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    sqlx::query!(
        "update command set reason = $2, message = $3, remedy = $4 where seq = $1 and state = 'waiting'",
        claim.seq,
        why.id,
        message,
        why.remedy
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}
