//! Processes: what was wished for, and what is seen of it.

mod requested;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use self::requested::queued;
use super::command::CommandView;
use super::log::last_lines;
use super::pod::{LogStreamView, PodView, log_streams, pods};
use super::waiting::{WaitedFor, WaitingFor, waiting};
use crate::process::{Lifecycle, ProcessKind, ProcessState};

/// A process in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProcessSummary {
    /// Its id.
    pub id: Uuid,
    /// Name of its Kubernetes objects.
    pub name: String,
    /// The function.
    pub function: String,
    /// Number of the revision that it runs.
    pub revision: i32,
    /// The cluster it runs on.
    pub cluster: String,
    /// `service` or `task`.
    pub kind: ProcessKind,
    /// What is wanted: `running` or `killed`.
    pub desired: String,
    /// Pods of a service that are wanted.
    pub replicas: i32,
    /// When its newest restart was asked for.
    pub restarted_at: Option<DateTime<Utc>>,
    /// How far it has come. Moves only forward.
    pub lifecycle: Lifecycle,
    /// What is seen of it now.
    pub state: ProcessState,
    /// Stable id of why.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Exit code of a task's container, once known.
    pub exit_code: Option<i32>,
    /// URL at which a service is called, inside its cluster.
    pub endpoint: Option<String>,
    /// Which run of a task this is, from 1.
    pub attempt: i32,
    /// Name of the token that asked for it.
    pub requested_by: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When its state last changed.
    pub updated_at: DateTime<Utc>,
    /// When nothing of it was left in the cluster.
    pub gone_at: Option<DateTime<Utc>>,
    /// What it waits for, while a command about it has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
}

/// All of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProcessView {
    /// What a list shows of it.
    #[serde(flatten)]
    pub summary: ProcessSummary,
    /// What was asked for.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::process::ProcessSpec))]
    pub spec: Value,
    /// Number of its newest event.
    pub last_event: i64,
    /// Its pods, the oldest first.
    pub pods: Vec<PodView>,
    /// The logs of its containers' runs, the oldest first.
    pub log_streams: Vec<LogStreamView>,
    /// The last lines of its log, while it is `failed` or `failing`: up to 10, of the last 500 characters each.
    #[serde(default)]
    pub last_lines: Vec<String>,
}

/// Which processes are listed. What is none does not count.
#[derive(Clone, Debug, Default)]
pub struct ProcessFilter {
    /// Of this function.
    pub function: Option<String>,
    /// In this state.
    pub state: Option<ProcessState>,
    /// Of this kind.
    pub kind: Option<ProcessKind>,
    /// On this cluster.
    pub cluster: Option<String>,
    /// Only those that are not gone.
    pub live: bool,
}

struct Row {
    process: ProcessSummary,
    pending: Option<(Uuid, DateTime<Utc>)>,
}

macro_rules! rows {
    ($rows:expr) => {
        $rows.into_iter().map(|row| Row {
            pending: row.pending.zip(row.pending_since),
            process: ProcessSummary {
                id: row.id,
                name: row.name,
                function: row.function,
                revision: row.revision,
                cluster: row.cluster,
                kind: row.kind,
                desired: row.desired,
                replicas: row.replicas,
                restarted_at: row.restarted_at,
                lifecycle: row.lifecycle,
                state: row.state,
                reason: row.reason,
                message: row.message,
                remedy: row.remedy,
                exit_code: row.exit_code,
                endpoint: row.endpoint,
                attempt: row.attempt,
                requested_by: row.requested_by,
                created_at: row.created_at,
                updated_at: row.updated_at,
                gone_at: row.gone_at,
                waiting_for: None,
            },
        })
    };
}

/// Processes `p` with their revision: further columns, whether the newest command about each that has not ended is looked for,
/// which processes, and the arguments.
macro_rules! select {
    ($columns:literal, PENDING, $which:literal, $($argument:expr),+) => {
        select!(
            $columns,
            r#", c.id as "pending?", c.created_at as "pending_since?""#,
            " left join lateral (select o.id, o.created_at
                                  from (select seq from command_ready where key in ('process:' || p.id, 'kill:' || p.id)
                                        union all
                                        select seq from command_lease where key in ('process:' || p.id, 'kill:' || p.id)) open
                                  join command o on o.seq = open.seq
                                 where o.state = 'waiting' order by o.seq desc limit 1) c on true",
            $which,
            $($argument),+
        )
    };
    ($columns:literal, NOT_PENDING, $which:literal, $($argument:expr),+) => {
        select!(
            $columns,
            r#", null::uuid as "pending?", null::timestamptz as "pending_since?""#,
            "",
            $which,
            $($argument),+
        )
    };
    ($columns:literal, $pending:literal, $joins:literal, $which:literal, $($argument:expr),+) => {
        sqlx::query!(
            r#"select p.id as "id!", p.name as "name!", p.function_name as "function!", v.number as "revision!", p.cluster as "cluster!",
                      p.kind as "kind!: ProcessKind", p.desired as "desired!", p.lifecycle as "lifecycle!: Lifecycle",
                      p.state as "state!: ProcessState", p.attempt as "attempt!", p.requested_by as "requested_by!",
                      p.created_at as "created_at!", p.updated_at as "updated_at!", p.reason, p.message, p.remedy,
                      p.exit_code, p.endpoint, p.gone_at, p.replicas as "replicas!", p.restarted_at"#
                + $columns
                + $pending
                + " from process p join revision v on v.id = p.revision_id"
                + $joins
                + $which,
            $($argument),+
        )
    };
}

/// Up to `limit` processes before `after`, the newest first.
///
/// # Errors
/// When Postgres is away.
pub async fn processes(
    pool: &PgPool,
    filter: &ProcessFilter,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<ProcessSummary>, sqlx::Error> {
    let rows = select!(
        "",
        PENDING,
        r#"            where ($1::text is null or p.function_name = $1) and ($2::text is null or p.state = $2)
              and ($3::text is null or p.kind = $3) and ($4::text is null or p.cluster = $4)
              and (not $5 or p.lifecycle < 'gone') and ($6::uuid is null or p.id < $6)
            order by p.id desc
            limit $7"#,
        filter.function,
        filter.state.map(ProcessState::as_str),
        filter.kind.map(ProcessKind::as_str),
        filter.cluster,
        filter.live,
        after,
        limit
    )
    .fetch_all(pool)
    .await?;
    say_what_is_waited_for(pool, rows!(rows).collect()).await
}

/// One process, all of it.
///
/// # Errors
/// When Postgres is away.
pub async fn process(pool: &PgPool, id: Uuid) -> Result<Option<ProcessView>, sqlx::Error> {
    let rows = select!(
        r#", p.spec as "spec!", p.last_event as "last_event!""#,
        PENDING,
        r#"            where p.id = $1"#,
        id
    )
    .fetch_all(pool)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (spec, last_event) = (first.spec.clone(), first.last_event);
    let Some(summary) = say_what_is_waited_for(pool, rows!(rows).collect()).await?.pop() else {
        return Ok(None);
    };
    all_of(pool, summary, spec, last_event).await.map(Some)
}

/// The process of a start, as it stands beside this look at the command.
///
/// # Errors
/// When Postgres is away.
pub async fn process_of(pool: &PgPool, start: &CommandView) -> Result<Option<ProcessView>, sqlx::Error> {
    let rows = select!(
        r#", p.spec as "spec!", p.last_event as "last_event!""#,
        NOT_PENDING,
        r#"            where p.id = $1"#,
        start.process_id
    )
    .fetch_all(pool)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (spec, last_event) = (first.spec.clone(), first.last_event);
    let Some(Row { process, .. }) = rows!(rows).next() else {
        return Ok(None);
    };
    let summary = ProcessSummary {
        waiting_for: (!start.has_ended())
            .then(|| {
                let requested = process.lifecycle == Lifecycle::Requested;
                start.waiting_for.clone().or_else(|| requested.then(|| queued(start)))
            })
            .flatten(),
        ..process
    };
    all_of(pool, summary, spec, last_event).await.map(Some)
}

/// A process with what is in other tables.
async fn all_of(
    pool: &PgPool,
    summary: ProcessSummary,
    spec: Value,
    last_event: i64,
) -> Result<ProcessView, sqlx::Error> {
    let (pods, log_streams) = match summary.lifecycle {
        // Nothing of it was made.
        Lifecycle::Requested => Default::default(),
        _ => (pods(pool, summary.id).await?, log_streams(pool, summary.id).await?),
    };
    let last_lines = match summary.state {
        ProcessState::Failed | ProcessState::Failing => last_lines(pool, summary.id).await?,
        _ => Vec::new(),
    };
    Ok(ProcessView {
        summary,
        spec,
        last_event,
        pods,
        log_streams,
        last_lines,
    })
}

/// The Kubernetes objects of a process. The outer none: there is no such process; the inner one: not generated yet.
///
/// # Errors
/// When Postgres is away.
pub async fn manifest(pool: &PgPool, id: Uuid) -> Result<Option<Option<Value>>, sqlx::Error> {
    sqlx::query_scalar!("select manifest from process where id = $1", id)
        .fetch_optional(pool)
        .await
}

async fn say_what_is_waited_for(pool: &PgPool, rows: Vec<Row>) -> Result<Vec<ProcessSummary>, sqlx::Error> {
    let pending: Vec<Uuid> = rows
        .iter()
        .filter_map(|row| row.pending.map(|(command, _)| command))
        .collect();
    let mut waits = if pending.is_empty() {
        Default::default()
    } else {
        waiting(pool, &pending).await?
    };
    Ok(rows
        .into_iter()
        .map(|Row { mut process, pending }| {
            process.waiting_for = pending.and_then(|(command, since)| {
                let queued = || WaitingFor {
                    what: WaitedFor::Command,
                    cluster: process.cluster.clone(),
                    command: Some(command),
                    since,
                };
                waits
                    .remove(&command)
                    .or_else(|| (process.lifecycle == Lifecycle::Requested).then(queued))
            });
            process
        })
        .collect())
}
