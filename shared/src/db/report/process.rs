//! Processes: what a command needs to know of them, and what it did.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::{ReportError, Watch, claimed, transition, watched};
use crate::db::claim::Claim;
use crate::function::{Entry, FunctionSpec};
use crate::pod::Verdict;
use crate::process::{Lifecycle, ProcessSpec, ProcessState};
use crate::{reason, service};

/// Everything that a command needs to know of a process.
#[derive(Clone, Debug)]
pub struct ProcessRow {
    /// The process.
    pub id: Uuid,
    /// Name of its objects.
    pub name: String,
    /// The function.
    pub function: String,
    /// Number of the revision.
    pub revision: i32,
    /// The function's settings at that revision.
    pub function_spec: FunctionSpec,
    /// What its source says about how it is run.
    pub entry: Entry,
    /// Memory wanted per device, from the source's own settings.
    pub device_map: BTreeMap<String, String>,
    /// What was asked for.
    pub spec: ProcessSpec,
    /// Whether it was asked to end.
    pub killed: bool,
    /// The shortest grace that a kill asked for, in seconds.
    pub kill_grace_seconds: Option<i32>,
    /// Whether a kill asked for force.
    pub kill_force: bool,
    /// How far it has come.
    pub lifecycle: Lifecycle,
    /// What it shows.
    pub state: ProcessState,
    /// The current attempt.
    pub attempt: i32,
    /// Whether a pod of this attempt was ever seen: then it ran, and creating it again would run it twice.
    pub pod_seen: bool,
    /// Repository and digest of the image, once built.
    pub image: Option<(String, String)>,
    /// Pods of a service that are wanted.
    pub replicas: i32,
    /// The newest restart that was asked for.
    pub restarted_at: Option<DateTime<Utc>>,
}

impl ProcessRow {
    /// What is wanted of it, but for the number of its pods.
    pub fn wish(&self) -> String {
        service::wish(self.revision, self.restarted_at)
    }
}

/// One process.
///
/// # Errors
/// When Postgres is away, or the row was written by a release that this one does not understand.
pub async fn process(pool: &PgPool, id: Uuid) -> Result<ProcessRow, sqlx::Error> {
    processes(pool, &[id]).await?.pop().ok_or(sqlx::Error::RowNotFound)
}

/// Those of several processes that there are, in any order.
///
/// # Errors
/// When Postgres is away, or a row was written by a release that this one does not understand.
pub async fn processes(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<ProcessRow>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select p.id, p.name, p.function_name, r.number, r.spec as function_spec, r.entry, r.config -> 'device_map' as device_map,
                  p.spec, p.desired = 'killed' as "killed!",
                  p.kill_grace_seconds, p.kill_force, p.lifecycle as "lifecycle: Lifecycle", p.state as "state: ProcessState",
                  p.attempt, exists (select from pod d where d.process_id = p.id and d.attempt = p.attempt) as "pod_seen!",
                  p.replicas, p.restarted_at, i.repository as "repository?", i.digest as "digest?"
             from process p join revision r on r.id = p.revision_id left join image i on i.input_hash = r.image
            where p.id = any($1)"#,
        ids
    )
    .fetch_all(pool)
    .await?;
    let unreadable = |error: serde_json::Error| sqlx::Error::Decode(error.into());
    rows.into_iter()
        .map(|row| {
            Ok(ProcessRow {
                id: row.id,
                name: row.name,
                function: row.function_name,
                revision: row.number,
                function_spec: serde_json::from_value(row.function_spec).map_err(unreadable)?,
                entry: serde_json::from_value(row.entry).map_err(unreadable)?,
                device_map: row
                    .device_map
                    .map(serde_json::from_value)
                    .transpose()
                    .map_err(unreadable)?
                    .unwrap_or_default(),
                spec: serde_json::from_value(row.spec).map_err(unreadable)?,
                killed: row.killed,
                kill_grace_seconds: row.kill_grace_seconds,
                kill_force: row.kill_force,
                lifecycle: row.lifecycle,
                state: row.state,
                attempt: row.attempt,
                pod_seen: row.pod_seen,
                image: row.repository.zip(row.digest),
                replicas: row.replicas,
                restarted_at: row.restarted_at,
            })
        })
        .collect()
}

/// Whether a process was asked to end.
///
/// # Errors
/// When Postgres is away.
pub async fn is_killed(pool: &PgPool, process: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select desired = 'killed' as "killed!" from process where id = $1"#,
        process
    )
    .fetch_one(pool)
    .await
}

/// Whether a start of this process is being carried out by anybody.
///
/// # Errors
/// When Postgres is away.
pub async fn has_claim(pool: &PgPool, process: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from command_lease where key = $1) as "claimed!""#,
        format!("process:{process}")
    )
    .fetch_one(pool)
    .await
}

/// Objects that exist now, made under a claim.
#[derive(Clone, Debug)]
pub struct Creation {
    /// Order of the command.
    pub seq: i64,
    /// Fencing token of the claim.
    pub token: i64,
    /// The process.
    pub process: Uuid,
    /// The objects as they were sent.
    pub manifest: Value,
    /// Where the process is called.
    pub endpoint: Option<String>,
}

/// Records that the objects of processes exist. Answers the commands whose claim was still ours; of the others nothing was
/// written.
///
/// # Errors
/// When Postgres is away.
pub async fn created(pool: &PgPool, made: &[Creation]) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select report_created($1, $2, $3, $4, $5) as "seq!""#,
        &made.iter().map(|one| one.seq).collect::<Vec<_>>(),
        &made.iter().map(|one| one.token).collect::<Vec<_>>(),
        &made.iter().map(|one| one.process).collect::<Vec<_>>(),
        &made.iter().map(|one| one.manifest.clone()).collect::<Vec<_>>(),
        &made.iter().map(|one| one.endpoint.clone()).collect::<Vec<_>>() as &[Option<String>],
    )
    .fetch_all(pool)
    .await
}

/// Shows that a process is being ended.
///
/// # Errors
/// [`ReportError`].
pub async fn stopping(pool: &PgPool, claim: &Claim, process: Uuid) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    let row = sqlx::query!(
        r#"select lifecycle as "lifecycle: Lifecycle", state as "state: ProcessState" from process where id = $1 for update"#,
        process
    )
    .fetch_one(&mut *transaction)
    .await?;
    if row.lifecycle < Lifecycle::Stopping {
        let state = if row.state.is_terminal() {
            row.state
        } else {
            ProcessState::Stopping
        };
        let verdict = Verdict {
            reason: Some(reason::KILL_REQUESTED),
            ..Verdict::plain(state)
        };
        transition(
            &mut transaction,
            process,
            Lifecycle::Stopping,
            &verdict,
            None,
            None,
            None,
            None,
        )
        .await?;
    }
    Ok(transaction.commit().await?)
}

/// Records that nothing of a process is left. It keeps the end that was seen; otherwise it shows `verdict`. A start or a
/// change that still waits is cancelled with it.
///
/// # Errors
/// [`ReportError`].
pub async fn gone(pool: &PgPool, claim: &Claim, process: Uuid, verdict: &Verdict) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    let row = sqlx::query!(
        r#"select state as "state: ProcessState", reason, message, remedy, exit_code from process where id = $1 for update"#,
        process
    )
    .fetch_one(&mut *transaction)
    .await?;
    if row.state.is_terminal() {
        let known = reason::ALL
            .iter()
            .copied()
            .find(|known| Some(known.id) == row.reason.as_deref());
        let verdict = Verdict {
            state: row.state,
            reason: known,
            message: row.message,
            exit_code: row.exit_code,
        };
        transition(
            &mut transaction,
            process,
            Lifecycle::Gone,
            &verdict,
            row.remedy.as_deref(),
            None,
            None,
            None,
        )
        .await?;
    } else {
        transition(
            &mut transaction,
            process,
            Lifecycle::Gone,
            verdict,
            None,
            None,
            None,
            None,
        )
        .await?;
    }
    sqlx::query!(
        "with waiting as (delete from command_ready where key = $1 returning seq)
         update command c set state = 'cancelled', finished_at = now(), message = null, remedy = null,
                              reason = case when c.kind in ('start_process', 'retry_process') then 'killed_before_creation'
                                            else 'kill_requested' end
           from waiting where c.seq = waiting.seq and c.state = 'waiting'",
        format!("process:{process}")
    )
    .execute(&mut *transaction)
    .await?;
    Ok(transaction.commit().await?)
}

/// Whether anything that a pod printed may still have to be stored.
///
/// # Errors
/// When Postgres is away.
pub async fn logs_open(pool: &PgPool, pod_uid: &str) -> Result<bool, sqlx::Error> {
    // No stream at all: the watch has not seen the pod's containers yet.
    sqlx::query_scalar!(
        r#"select not exists (select from log_stream where pod_uid = $1)
               or exists (select from log_stream where pod_uid = $1 and seal is null) as "open!""#,
        pod_uid
    )
    .fetch_one(pool)
    .await
}

/// Shows why a process cannot be created at the moment.
///
/// # Errors
/// [`ReportError`].
pub async fn hindered(
    pool: &PgPool,
    claim: &Claim,
    process: Uuid,
    why: reason::Reason,
    message: &str,
) -> Result<(), ReportError> {
    let mut transaction = claimed(pool, claim).await?;
    let lifecycle = sqlx::query_scalar!(
        r#"select lifecycle as "lifecycle: Lifecycle" from process where id = $1"#,
        process
    )
    .fetch_one(&mut *transaction)
    .await?;
    let verdict = Verdict::because(ProcessState::Pending, why, message);
    transition(&mut transaction, process, lifecycle, &verdict, None, None, None, None).await?;
    Ok(transaction.commit().await?)
}

/// Processes of a function that are not gone.
///
/// # Errors
/// When Postgres is away.
pub async fn live_processes_of(pool: &PgPool, function: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "live!" from process where function_name = $1 and lifecycle < 'gone'"#,
        function
    )
    .fetch_one(pool)
    .await
}

/// Processes that were created at least `grace` ago, have no pod that is believed to exist, and are in no command's hands.
///
/// # Errors
/// When Postgres is away.
pub async fn childless(pool: &PgPool, cluster: &str, grace: Duration) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select p.id from process p
          where p.cluster = $1 and p.lifecycle = 'created' and p.desired = 'running'
            and p.updated_at < now() - make_interval(secs => $2)
            and not exists (select from pod d where d.process_id = p.id and d.gone_at is null)
            and not exists (select from log_stream s where s.process_id = p.id and s.seal is null)
            and not exists (select from command_ready r where r.key = 'process:' || p.id)
            and not exists (select from command_lease l where l.key = 'process:' || p.id)",
        cluster,
        grace.as_secs_f64()
    )
    .fetch_all(pool)
    .await
}

/// Records that everything of a process has vanished from the cluster.
///
/// # Errors
/// [`ReportError`].
pub async fn vanished(pool: &PgPool, watch: &Watch, process: Uuid) -> Result<(), ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let verdict = Verdict::because(
        ProcessState::Failed,
        reason::DELETED_BY_OTHER,
        "its objects are not in the cluster any more, and nobody saw them end",
    );
    transition(
        &mut transaction,
        process,
        Lifecycle::Gone,
        &verdict,
        None,
        None,
        None,
        None,
    )
    .await?;
    Ok(transaction.commit().await?)
}

/// What a reconciler needs to know of a process to judge an object that carries its label.
#[derive(Clone, Debug)]
pub struct RowBehind {
    /// The process.
    pub id: Uuid,
    /// How far it has come.
    pub lifecycle: Lifecycle,
}

/// The rows behind a set of objects; ids without a row are absent from the answer.
///
/// # Errors
/// When Postgres is away.
pub async fn rows_behind(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<RowBehind>, sqlx::Error> {
    sqlx::query_as!(
        RowBehind,
        r#"select id, lifecycle as "lifecycle: Lifecycle" from process where id = any($1)"#,
        ids
    )
    .fetch_all(pool)
    .await
}
