//! Pods as they are seen, and what that makes of their process.

use std::collections::HashSet;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{ReportError, Watch, transition, watched};
use crate::command::{CommandKind, VERSION};
use crate::pod::{KnownPod, KnownProcess, PodObservation, Step, Verdict, judge};
use crate::process::{Lifecycle, ProcessKind, ProcessState};
use crate::{reason, service};

/// Stores looks at pods, in their order, and what each makes of its process: one commit for all of them. Answers the processes;
/// a pod whose process is not among them is not ours.
///
/// # Errors
/// [`ReportError`].
pub async fn observe_pods(
    pool: &PgPool,
    watch: &Watch,
    pods: &[&PodObservation],
) -> Result<HashSet<Uuid>, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    // In the order of their ids, as everybody locks them who locks several.
    let ours: HashSet<Uuid> = sqlx::query_scalar!(
        "select id from process where id = any($1) order by id for update",
        &pods.iter().map(|pod| pod.process_id).collect::<Vec<_>>()
    )
    .fetch_all(&mut *transaction)
    .await?
    .into_iter()
    .collect();
    for pod in pods.iter().filter(|pod| ours.contains(&pod.process_id)) {
        let Some(known) = known_process(&mut transaction, pod.process_id).await? else {
            continue;
        };
        upsert(&mut transaction, watch, pod).await?;
        settle(
            &mut transaction,
            watch,
            pod.process_id,
            known,
            Some((&pod.uid, &pod.resource_version)),
        )
        .await?;
    }
    transaction.commit().await?;
    Ok(ours)
}

/// Marks pods that a complete list no longer holds as gone. Answers the processes that they were of.
///
/// # Errors
/// [`ReportError`].
pub async fn mark_missing(pool: &PgPool, watch: &Watch, uids: &[String]) -> Result<Vec<Uuid>, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let mut processes = sqlx::query_scalar!(
        "update pod set gone_at = now() where uid = any($1) and gone_at is null returning process_id",
        uids
    )
    .fetch_all(&mut *transaction)
    .await?;
    processes.sort_unstable();
    processes.dedup();
    for process in &processes {
        if let Some(known) = known_process(&mut transaction, *process).await? {
            settle(&mut transaction, watch, *process, known, None).await?;
        }
    }
    transaction.commit().await?;
    Ok(processes)
}

/// Pods of the watched shards that are believed to exist: uid and name.
///
/// # Errors
/// When Postgres is away.
pub async fn live_pods(pool: &PgPool, watch: &Watch) -> Result<Vec<(String, String)>, sqlx::Error> {
    Ok(sqlx::query!(
        "select d.uid, d.name from pod d join process p on p.id = d.process_id where p.cluster = $1 and d.gone_at is null
            and p.lifecycle < 'gone' and d.shard = any($2)",
        watch.cluster,
        &watch.shards
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| (row.uid, row.name))
    .collect())
}

/// Services that were created and have no pod that lives, or wait for new ones beside those that they have.
///
/// # Errors
/// When Postgres is away.
pub async fn hindered_services(pool: &PgPool, cluster: &str) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select p.id from process p
          where p.cluster = $1 and p.lifecycle = 'created' and p.kind = 'service' and p.desired = 'running' and p.replicas > 0
            and (p.reason in ('rolling_out', 'partly_ready')
                 or not exists (select from pod d where d.process_id = p.id and d.ended_at is null and d.gone_at is null))",
        cluster
    )
    .fetch_all(pool)
    .await
}

/// Shows why a service has no pod, or no new one. False: by now it has one, or is not to have one, or shows this already.
///
/// # Errors
/// [`ReportError`].
pub async fn pods_refused(pool: &PgPool, watch: &Watch, process: Uuid, why: &Verdict) -> Result<bool, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let Some(known) = known_process(&mut transaction, process).await? else {
        return Ok(false);
    };
    let pods = known_pods(&mut transaction, process).await?;
    if known.killed || known.lifecycle != Lifecycle::Created {
        return Ok(false);
    }
    let shown = match judge(&known, &pods) {
        _ if pods.iter().all(|pod| pod.ended || pod.gone) => why.clone(),
        // It answers meanwhile.
        Step::Show(_, seen) if matches!(seen.reason, Some(reason::ROLLING_OUT | reason::PARTLY_READY)) => Verdict {
            message: why
                .reason
                .zip(why.message.as_deref())
                .map(|(id, words)| format!("{}: {words}", id.id)),
            reason: Some(if seen.reason == Some(reason::ROLLING_OUT) {
                reason::ROLLOUT_HINDERED
            } else {
                reason::PARTLY_READY
            }),
            ..seen
        },
        _ => return Ok(false),
    };
    let changed = transition(
        &mut transaction,
        process,
        known.lifecycle,
        &shown,
        None,
        None,
        None,
        None,
    )
    .await?;
    transaction.commit().await?;
    Ok(changed)
}

/// A task's pod that has ended and whose logs are all stored: it can go.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
}

/// Pods that [`finished_pods`] answers at most.
pub const FINISHED_AT_ONCE: usize = 200;

/// Pods of tasks of the watched shards that can go.
///
/// # Errors
/// When Postgres is away.
pub async fn finished_pods(pool: &PgPool, watch: &Watch) -> Result<Vec<Finished>, sqlx::Error> {
    sqlx::query_as!(
        Finished,
        "select d.uid, d.name
           from process p join pod d on d.process_id = p.id
          where p.cluster = $1 and p.lifecycle < 'gone' and p.kind = 'task' and d.phase in ('Failed', 'Succeeded') and d.gone_at is null
            and d.shard = any($2)
            and not exists (select from log_stream s where s.pod_uid = d.uid and s.seal is null)
            and (exists (select from log_stream s where s.pod_uid = d.uid)
                 or not jsonb_path_exists(d.containers, '$[*] ? (@.started_at != null)'))
          limit $3",
        watch.cluster,
        &watch.shards,
        i64::try_from(FINISHED_AT_ONCE).unwrap_or(i64::MAX)
    )
    .fetch_all(pool)
    .await
}

async fn upsert(connection: &mut PgConnection, watch: &Watch, pod: &PodObservation) -> Result<(), sqlx::Error> {
    let containers = serde_json::to_value(&pod.containers).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        "insert into pod (uid, process_id, attempt, name, node, phase, state, reason, message, exit_code, restart_count,
                          containers, resource_version, observation, created_at, ended_at, gone_at, wish, shard)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
                 case when $16 then now() end, case when $17 then now() end, $18, $19)
         on conflict (uid) do update
            set node = excluded.node, phase = excluded.phase, state = excluded.state, reason = excluded.reason,
                message = excluded.message, exit_code = coalesce(excluded.exit_code, pod.exit_code),
                restart_count = excluded.restart_count, containers = excluded.containers, wish = excluded.wish,
                resource_version = excluded.resource_version, observation = pod.observation + 1,
                ended_at = coalesce(pod.ended_at, excluded.ended_at), gone_at = coalesce(pod.gone_at, excluded.gone_at)",
        pod.uid,
        pod.process_id,
        pod.attempt,
        pod.name,
        pod.node,
        pod.phase,
        pod.verdict.state.as_str(),
        pod.verdict.reason.map(|reason| reason.id),
        pod.verdict.message,
        pod.verdict.exit_code,
        pod.restart_count,
        containers,
        pod.resource_version,
        watch.token,
        pod.created_at,
        pod.ended,
        pod.gone,
        pod.wish,
        pod.shard
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn known_process(connection: &mut PgConnection, id: Uuid) -> Result<Option<KnownProcess>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select p.kind, p.desired = 'killed' as "killed!", p.lifecycle as "lifecycle: Lifecycle", p.state as "state: ProcessState",
                  p.attempt, coalesce((p.spec ->> 'retries')::integer, 0) as "retries!", p.replicas, p.restarted_at, r.number
             from process p join revision r on r.id = p.revision_id where p.id = $1 for update of p"#,
        id
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let open = sqlx::query_scalar!(
        r#"select exists (select from log_stream where process_id = $1 and seal is null) as "open!""#,
        id
    )
    .fetch_one(connection)
    .await?;
    Ok(Some(KnownProcess {
        kind: if row.kind == ProcessKind::Task.as_str() {
            ProcessKind::Task
        } else {
            ProcessKind::Service
        },
        killed: row.killed,
        lifecycle: row.lifecycle,
        state: row.state,
        wish: service::wish(row.number, row.restarted_at),
        replicas: row.replicas,
        attempt: row.attempt,
        retries: row.retries,
        logs_sealed: !open,
    }))
}

async fn known_pods(connection: &mut PgConnection, process: Uuid) -> Result<Vec<KnownPod>, sqlx::Error> {
    let rows = sqlx::query!(
        // Old kubelets never report the end of a container that a deadline ended; its sealed log does.
        r#"select attempt, wish, state as "state: ProcessState", reason, message, exit_code, gone_at is not null as "gone!", created_at,
                  (ended_at is not null or phase in ('Failed', 'Succeeded')
                      and exists (select from log_stream s where s.pod_uid = pod.uid)
                      and not exists (select from log_stream s where s.pod_uid = pod.uid and s.seal is null)) as "ended!"
             from pod where process_id = $1"#,
        process
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| KnownPod {
            attempt: row.attempt,
            wish: row.wish,
            verdict: Verdict {
                state: row.state,
                reason: reason::ALL
                    .iter()
                    .copied()
                    .find(|known| Some(known.id) == row.reason.as_deref()),
                message: row.message,
                exit_code: row.exit_code,
            },
            ended: row.ended,
            gone: row.gone,
            created_at: row.created_at,
        })
        .collect())
}

/// Lets a process show what its pods say; called under the lock of its row.
pub(super) async fn settle_process(
    connection: &mut PgConnection,
    watch: &Watch,
    process: Uuid,
) -> Result<(), sqlx::Error> {
    match known_process(connection, process).await? {
        Some(known) => settle(connection, watch, process, known, None).await,
        None => Ok(()),
    }
}

/// Lets a service show what its pods say to a new wish; called under the lock of its row.
pub(super) async fn settle_service(connection: &mut PgConnection, process: Uuid) -> Result<(), sqlx::Error> {
    let Some(known) = known_process(connection, process).await? else {
        return Ok(());
    };
    let pods = known_pods(connection, process).await?;
    if let Step::Show(lifecycle, verdict) = judge(&known, &pods) {
        transition(connection, process, lifecycle, &verdict, None, None, None, None).await?;
    }
    Ok(())
}

async fn settle(
    connection: &mut PgConnection,
    watch: &Watch,
    process: Uuid,
    mut known: KnownProcess,
    seen: Option<(&str, &str)>,
) -> Result<(), sqlx::Error> {
    let pods = known_pods(connection, process).await?;
    // Twice: the end of a task's last pod may be both its verdict and its disappearance.
    for _ in 0..2 {
        match judge(&known, &pods) {
            Step::Stay => return Ok(()),
            Step::Show(lifecycle, verdict) => {
                let (uid, version) = seen.unzip();
                transition(connection, process, lifecycle, &verdict, None, uid, version, None).await?;
                known.lifecycle = lifecycle;
                known.state = verdict.state;
            }
            Step::Retry(verdict) => return retry(connection, watch, process, &known, &verdict).await,
        }
    }
    Ok(())
}

async fn retry(
    connection: &mut PgConnection,
    watch: &Watch,
    process: Uuid,
    known: &KnownProcess,
    verdict: &Verdict,
) -> Result<(), sqlx::Error> {
    let message = format!(
        "attempt {} of {} failed{}",
        known.attempt,
        known.retries + 1,
        verdict
            .message
            .as_deref()
            .map(|message| format!(": {message}"))
            .unwrap_or_default()
    );
    let shown = Verdict {
        state: ProcessState::Failing,
        ..verdict.clone()
    };
    transition(
        connection,
        process,
        Lifecycle::Created,
        &shown,
        None,
        None,
        None,
        Some(&message),
    )
    .await?;
    sqlx::query!("update process set attempt = attempt + 1 where id = $1", process)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "insert into command (id, cluster, kind, version, process_id, requested_by)
         values ($1, $2, $3, $4, $5, 'octopus-manager')",
        Uuid::now_v7(),
        watch.cluster,
        CommandKind::RetryProcess.as_str(),
        VERSION,
        process
    )
    .execute(connection)
    .await?;
    Ok(())
}
