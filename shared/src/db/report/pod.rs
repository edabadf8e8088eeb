//! Pods as they are seen.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::settle::{Sight, known, settle};
use super::{ReportError, Watch, transition, watched};
use crate::pod::{PodObservation, Step, Verdict, judge};
use crate::process::Lifecycle;
use crate::reason::{self, Reason};

/// Stores looks at pods, in their order, and what each makes of its process: one commit for all of them. Answers the processes;
/// a pod whose process is not among them is not ours.
///
/// # Errors
/// [`ReportError`].
pub async fn observe_pods(pool: &PgPool, watch: &Watch, pods: &[PodObservation]) -> Result<HashSet<Uuid>, ReportError> {
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
    let mut rest: Vec<&PodObservation> = pods.iter().filter(|pod| ours.contains(&pod.process_id)).collect();
    while !rest.is_empty() {
        // What a look makes of its process is known before the next one at the same process.
        let mut taken = HashSet::new();
        let (looks, later): (Vec<_>, _) = rest.into_iter().partition(|pod| taken.insert(pod.process_id));
        upsert(&mut transaction, watch, &looks).await?;
        let sights: Vec<Sight<'_>> = looks
            .into_iter()
            .map(|pod| Sight {
                process: pod.process_id,
                pod: Some(pod),
            })
            .collect();
        settle(&mut transaction, watch, &sights).await?;
        rest = later;
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
    let sights: Vec<Sight<'_>> = processes.iter().copied().map(Sight::again).collect();
    settle(&mut transaction, watch, &sights).await?;
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
pub async fn hindered_services(executor: impl PgExecutor<'_>, cluster: &str) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select p.id from process p
          where p.cluster = $1 and p.lifecycle = 'created' and p.kind = 'service' and p.desired = 'running' and p.replicas > 0
            and (p.reason in ('rolling_out', 'partly_ready')
                 or not exists (select from pod d where d.process_id = p.id and d.ended_at is null and d.gone_at is null))",
        cluster
    )
    .fetch_all(executor)
    .await
}

/// Shows why a service has no pod, or no new one. False: by now it has one, or is not to have one, or shows this already.
///
/// # Errors
/// [`ReportError`].
pub async fn pods_refused(pool: &PgPool, watch: &Watch, process: Uuid, why: &Verdict) -> Result<bool, ReportError> {
    let mut transaction = watched(pool, watch).await?;
    let Some((known, pods)) = known(&mut transaction, process).await? else {
        return Ok(false);
    };
    if known.killed || known.lifecycle != Lifecycle::Created {
        return Ok(false);
    }
    let (id, words) = (
        why.reason.map_or("", |reason| reason.id),
        why.message.as_deref().unwrap_or_default(),
    );
    let shown = match judge(&known, &pods) {
        _ if pods.iter().all(|pod| pod.ended || pod.gone) => why.clone(),
        // It answers meanwhile.
        Step::Show(_, seen) if seen.reason == Some(reason::ROLLING_OUT) => Verdict {
            message: Some(format!("{id}: {words}")),
            reason: Some(reason::ROLLOUT_HINDERED),
            ..seen
        },
        Step::Show(_, seen) if seen.reason == Some(reason::PARTLY_READY) => Verdict {
            message: seen.message.map(|fewer| format!("{fewer}: {id}: {words}")),
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

/// A pod that can go.
#[derive(Clone, Debug)]
pub struct Removable {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
}

/// Pods that [`finished_pods`] and [`waiting_pods`] answer at most.
pub const REMOVED_AT_ONCE: usize = 200;

/// Pods of tasks of the watched shards that have ended, their logs all stored.
///
/// # Errors
/// When Postgres is away.
pub async fn finished_pods(pool: &PgPool, watch: &Watch) -> Result<Vec<Removable>, sqlx::Error> {
    sqlx::query_as!(
        Removable,
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
        i64::try_from(REMOVED_AT_ONCE).unwrap_or(i64::MAX)
    )
    .fetch_all(pool)
    .await
}

/// A task's pod whose container cannot be made.
#[derive(Clone, Debug)]
pub struct WaitingPod {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Why, one of those that were asked for.
    pub why: Reason,
    /// Kubernetes' own words.
    pub words: String,
}

/// Pods of tasks of the watched shards that have failed to start for one of these reasons for longer than its grace, or were given up.
///
/// # Errors
/// When Postgres is away.
pub async fn waiting_pods(
    pool: &PgPool,
    watch: &Watch,
    grace: &[(Reason, Duration)],
) -> Result<Vec<WaitingPod>, sqlx::Error> {
    let reasons: Vec<String> = grace.iter().map(|(reason, _)| reason.id.to_owned()).collect();
    let seconds: Vec<f64> = grace.iter().map(|(_, grace)| grace.as_secs_f64()).collect();
    let rows = sqlx::query!(
        r#"select d.uid, d.name, d.reason as "reason!", d.message
           from process p
           join pod d on d.process_id = p.id
           join unnest($3::text[], $4::double precision[]) as grace (reason, seconds) on grace.reason = d.reason
          where p.cluster = $1 and p.lifecycle = 'created' and p.kind = 'task' and d.phase = 'Pending' and d.gone_at is null
            and d.shard = any($2)
            -- Who has given one up may have died before it was deleted.
            and (d.state = 'failed'
                 or d.attempt = p.attempt and d.reason = p.reason and p.state = 'failing'
                    and p.updated_at <= now() - make_interval(secs => grace.seconds))
          limit $5"#,
        watch.cluster,
        &watch.shards,
        &reasons,
        &seconds,
        i64::try_from(REMOVED_AT_ONCE).unwrap_or(i64::MAX)
    )
    .fetch_all(pool)
    .await?;
    let waiting = rows.into_iter().filter_map(|row| {
        let (why, _) = grace.iter().find(|(why, _)| why.id == row.reason)?;
        Some(WaitingPod {
            uid: row.uid,
            name: row.name,
            why: *why,
            words: row.message.unwrap_or_default(),
        })
    });
    Ok(waiting.collect())
}

/// Stores one look at each of several pods.
async fn upsert(connection: &mut PgConnection, watch: &Watch, pods: &[&PodObservation]) -> Result<(), sqlx::Error> {
    let encode = |error: serde_json::Error| sqlx::Error::Encode(error.into());
    let containers: Result<Vec<_>, _> = pods.iter().map(|pod| serde_json::to_value(&pod.containers)).collect();
    let events: Result<Vec<_>, _> = pods.iter().map(|pod| serde_json::to_value(&pod.events)).collect();
    sqlx::query!(
        "insert into pod (uid, process_id, attempt, name, node, phase, state, reason, message, exit_code, restart_count,
                          containers, resource_version, observation, created_at, ended_at, gone_at, wish, shard, events)
         select uid, process_id, attempt, name, node, phase, state, reason, message, exit_code, restart_count, containers,
                resource_version, $14, created_at, case when ended then now() end, case when gone then now() end, wish, shard,
                events
           from unnest($1::text[], $2::uuid[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                       $9::text[], $10::integer[], $11::integer[], $12::jsonb[], $13::text[], $15::timestamptz[],
                       $16::boolean[], $17::boolean[], $18::text[], $19::smallint[], $20::jsonb[])
                as look (uid, process_id, attempt, name, node, phase, state, reason, message, exit_code, restart_count,
                         containers, resource_version, created_at, ended, gone, wish, shard, events)
         on conflict (uid) do update
            set node = excluded.node, phase = excluded.phase, state = excluded.state, reason = excluded.reason,
                message = excluded.message,
                exit_code = case when (excluded.state, excluded.reason) is not distinct from (pod.state, pod.reason)
                                 then coalesce(excluded.exit_code, pod.exit_code) else excluded.exit_code end,
                restart_count = excluded.restart_count, containers = excluded.containers, wish = excluded.wish,
                -- A watch that has begun after Kubernetes forgot them knows none.
                events = case when excluded.events = '[]' then pod.events else excluded.events end,
                resource_version = excluded.resource_version, observation = pod.observation + 1,
                ended_at = coalesce(pod.ended_at, excluded.ended_at), gone_at = coalesce(pod.gone_at, excluded.gone_at)",
        &each(pods, |pod| pod.uid.clone()),
        &each(pods, |pod| pod.process_id),
        &each(pods, |pod| pod.attempt),
        &each(pods, |pod| pod.name.clone()),
        &each(pods, |pod| pod.node.clone()) as &[Option<String>],
        &each(pods, |pod| pod.phase.clone()),
        &each(pods, |pod| pod.verdict.state.as_str().to_owned()),
        &each(pods, |pod| pod.verdict.reason.map(|reason| reason.id.to_owned())) as &[Option<String>],
        &each(pods, |pod| pod.verdict.message.clone()) as &[Option<String>],
        &each(pods, |pod| pod.verdict.exit_code) as &[Option<i32>],
        &each(pods, |pod| pod.restart_count),
        &containers.map_err(encode)?,
        &each(pods, |pod| pod.resource_version.clone()),
        watch.token,
        &each(pods, |pod| pod.created_at),
        &each(pods, |pod| pod.ended),
        &each(pods, |pod| pod.gone),
        &each(pods, |pod| pod.wish.clone()) as &[Option<String>],
        &each(pods, |pod| pod.shard),
        &events.map_err(encode)?
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A column of several rows.
fn each<T>(pods: &[&PodObservation], pick: impl Fn(&PodObservation) -> T) -> Vec<T> {
    pods.iter().map(|pod| pick(pod)).collect()
}
