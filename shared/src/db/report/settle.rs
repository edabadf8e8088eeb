//! What the pods of processes make of them: decided by [`judge`], shown as transitions.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Watch, transition};
use crate::command::{CommandKind, VERSION};
use crate::pod::{KnownPod, KnownProcess, PodObservation, Step, Verdict, judge};
use crate::process::{Lifecycle, ProcessKind, ProcessState};
use crate::{reason, service};

/// Processes as they stand, their rows locked.
async fn known_processes(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, KnownProcess>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select p.id, p.kind, p.desired = 'killed' as "killed!", p.lifecycle as "lifecycle: Lifecycle",
                  p.state as "state: ProcessState", p.attempt, coalesce((p.spec ->> 'retries')::integer, 0) as "retries!",
                  p.replicas, p.restarted_at, r.number
             from process p join revision r on r.id = p.revision_id where p.id = any($1) order by p.id for update of p"#,
        ids
    )
    .fetch_all(&mut *connection)
    .await?;
    // Under the lock: what is sealed from now on waits.
    let open: HashSet<Uuid> = sqlx::query_scalar!(
        "select distinct process_id from log_stream where process_id = any($1) and seal is null",
        ids
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .collect();
    let known = rows.into_iter().map(|row| {
        let kind = if row.kind == ProcessKind::Task.as_str() {
            ProcessKind::Task
        } else {
            ProcessKind::Service
        };
        let process = KnownProcess {
            kind,
            killed: row.killed,
            lifecycle: row.lifecycle,
            state: row.state,
            wish: service::wish(row.number, row.restarted_at),
            replicas: row.replicas,
            attempt: row.attempt,
            retries: row.retries,
            logs_sealed: !open.contains(&row.id),
        };
        (row.id, process)
    });
    Ok(known.collect())
}

/// The pods of processes that are locked.
async fn known_pods(
    connection: &mut PgConnection,
    processes: &[Uuid],
) -> Result<HashMap<Uuid, Vec<KnownPod>>, sqlx::Error> {
    let rows = sqlx::query!(
        // Old kubelets never report the end of a container that a deadline ended; its sealed log does.
        r#"select process_id, attempt, wish, state as "state: ProcessState", reason, message, exit_code,
                  gone_at is not null as "gone!", created_at,
                  (ended_at is not null or phase in ('Failed', 'Succeeded')
                      and exists (select from log_stream s where s.pod_uid = pod.uid)
                      and not exists (select from log_stream s where s.pod_uid = pod.uid and s.seal is null)) as "ended!"
             from pod where process_id = any($1)"#,
        processes
    )
    .fetch_all(connection)
    .await?;
    let mut known: HashMap<Uuid, Vec<KnownPod>> = HashMap::new();
    for row in rows {
        let pod = KnownPod {
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
        };
        known.entry(row.process_id).or_default().push(pod);
    }
    Ok(known)
}

/// One process and its pods, its row locked.
pub(super) async fn known(
    connection: &mut PgConnection,
    process: Uuid,
) -> Result<Option<(KnownProcess, Vec<KnownPod>)>, sqlx::Error> {
    let found = known_processes(connection, &[process]).await?.remove(&process);
    let Some(found) = found else { return Ok(None) };
    let pods = known_pods(connection, &[process]).await?.remove(&process);
    Ok(Some((found, pods.unwrap_or_default())))
}

/// Lets a process show what its pods say; called under the lock of its row.
pub(super) async fn settle_process(
    connection: &mut PgConnection,
    watch: &Watch,
    process: Uuid,
) -> Result<(), sqlx::Error> {
    settle(connection, watch, &[Sight::again(process)]).await
}

/// Lets a service show what its pods say to a new wish; called under the lock of its row.
pub(super) async fn settle_service(connection: &mut PgConnection, process: Uuid) -> Result<(), sqlx::Error> {
    let Some((known, pods)) = known(connection, process).await? else {
        return Ok(());
    };
    if let Step::Show(lifecycle, verdict) = judge(&known, &pods) {
        transition(connection, process, lifecycle, &verdict, None, None, None, None).await?;
    }
    Ok(())
}

/// Why a process is looked at.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    pub(super) process: Uuid,
    /// This look at one of its pods. None: something else has changed.
    pub(super) pod: Option<&'a PodObservation>,
}

impl Sight<'_> {
    pub(super) fn again(process: Uuid) -> Self {
        Self { process, pod: None }
    }
}

/// Lets processes show what their pods say.
pub(super) async fn settle(
    connection: &mut PgConnection,
    watch: &Watch,
    sights: &[Sight<'_>],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = sights.iter().map(|sight| sight.process).collect();
    let mut processes = known_processes(connection, &ids).await?;
    let pods = known_pods(connection, &ids).await?;
    let (mut shown, mut again) = (Vec::new(), Vec::new());
    for sight in sights {
        let Some(mut known) = processes.remove(&sight.process) else {
            continue;
        };
        let pods = pods.get(&sight.process).map_or(&[][..], Vec::as_slice);
        // Twice: the end of a task's last pod may be both its verdict and its disappearance.
        for _ in 0..2 {
            match judge(&known, pods) {
                Step::Stay => break,
                Step::Show(lifecycle, verdict) => {
                    (known.lifecycle, known.state) = (lifecycle, verdict.state);
                    shown.push((*sight, lifecycle, verdict));
                }
                Step::Retry(verdict) => {
                    again.push((sight.process, known, verdict));
                    break;
                }
            }
        }
    }
    // The verdict of a process before its disappearance.
    while !shown.is_empty() {
        let mut taken = HashSet::new();
        let (first, later): (Vec<_>, _) = shown.into_iter().partition(|(sight, ..)| taken.insert(sight.process));
        show(connection, &first).await?;
        shown = later;
    }
    for (process, known, verdict) in again {
        retry(connection, watch, process, &known, &verdict).await?;
    }
    Ok(())
}

/// Transitions of many processes, each at most once.
async fn show(connection: &mut PgConnection, shown: &[(Sight<'_>, Lifecycle, Verdict)]) -> Result<(), sqlx::Error> {
    fn column<T>(shown: &[(Sight<'_>, Lifecycle, Verdict)], pick: impl Fn(&Sight<'_>, &Verdict) -> T) -> Vec<T> {
        shown.iter().map(|(sight, _, verdict)| pick(sight, verdict)).collect()
    }
    let lifecycles: Vec<Lifecycle> = shown.iter().map(|(_, lifecycle, _)| *lifecycle).collect();
    let remedy = |verdict: &Verdict| {
        verdict
            .reason
            .map(|reason| reason.remedy)
            .filter(|remedy| !remedy.is_empty())
    };
    sqlx::query!(
        "select transitions($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        &column(shown, |sight, _| sight.process),
        &lifecycles as &[Lifecycle],
        &column(shown, |_, verdict| verdict.state.as_str().to_owned()),
        &column(shown, |_, verdict| verdict.reason.map(|reason| reason.id.to_owned())) as &[Option<String>],
        &column(shown, |_, verdict| verdict.message.clone()) as &[Option<String>],
        &column(shown, |_, verdict| remedy(verdict).map(str::to_owned)) as &[Option<String>],
        &column(shown, |_, verdict| verdict.exit_code) as &[Option<i32>],
        &column(shown, |sight, _| sight.pod.map(|pod| pod.uid.clone())) as &[Option<String>],
        &column(shown, |sight, _| sight.pod.map(|pod| pod.resource_version.clone())) as &[Option<String>],
    )
    .execute(connection)
    .await?;
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
    // Without the reason that is shown, an attempt that fails like the one before it, or as was seen already, says so too.
    sqlx::query!(
        "update process set attempt = attempt + 1, reason = null where id = $1",
        process
    )
    .execute(&mut *connection)
    .await?;
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
