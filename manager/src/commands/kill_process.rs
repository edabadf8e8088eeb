//! Ends a process and keeps its log: takes its controllers away without their pods, lowers the pods' deadline, waits
//! for the end of the containers and of the logs, deletes the pods, and is done when a consistent look finds nothing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use octopus_shared::db::claim::Claim;
use octopus_shared::db::report::{self, ProcessRow};
use octopus_shared::pod::Verdict;
use octopus_shared::process::{Lifecycle, ProcessState};
use octopus_shared::reason;
use tokio::time::sleep;

use super::{Ending, Obstacle, subject};
use crate::cluster::{Cluster, ClusterError, Controllers, Deletion, label, policy, state};
use crate::context::Context;
use crate::failpoint::failpoint;

/// Between two looks at the cluster.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// What is to be done with one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Nothing yet.
    Wait,
    /// Let it end and keep its log.
    LowerDeadline,
    /// Remove it.
    Delete(Deletion),
}

/// How the kill was asked for, and what Postgres knows about the pod's logs.
#[derive(Clone, Copy, Debug)]
struct Wish {
    grace_seconds: Option<i32>,
    force: bool,
    logs_open: bool,
}

/// Decides from one look at one pod.
fn decide(pod: &Pod, wish: Wish, now: DateTime<Utc>) -> Action {
    let Some(seen) = state::fold(pod, false) else {
        return Action::Wait;
    };
    if wish.force {
        return Action::Delete(Deletion::Within(0));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Action::Wait;
    }
    let started = seen
        .containers
        .iter()
        .any(|container| container.started_at.is_some() || container.restart_count > 0);
    if !started {
        return Action::Delete(Deletion::Graceful);
    }
    let final_phase = matches!(seen.phase.as_str(), "Succeeded" | "Failed");
    if final_phase && !wish.logs_open {
        // Everything of it is stored, and where its status does not say that it ended, its log did.
        return Action::Delete(Deletion::Graceful);
    }
    let Some(since) = stopping_since(pod) else {
        return if final_phase {
            Action::Wait
        } else {
            Action::LowerDeadline
        };
    };
    match wish.grace_seconds {
        // A kill may only shorten the pod's own grace; what was not read by then is a recorded gap.
        Some(grace) if now - since > TimeDelta::seconds(i64::from(grace.max(2))) && !seen.ended => {
            Action::Delete(Deletion::Within(1))
        }
        _ => Action::Wait,
    }
}

fn stopping_since(pod: &Pod) -> Option<DateTime<Utc>> {
    let since = pod.metadata.annotations.as_ref()?.get(label::STOPPING_SINCE)?;
    DateTime::parse_from_rfc3339(since).ok().map(|since| since.to_utc())
}

pub(super) async fn carry_out(context: &Context, claim: &Claim) -> Result<Ending, Obstacle> {
    let id = subject(claim.process_id)?;
    let selector = label::of_process(context.cluster.around.installation, id);
    let mut end_seen = true;
    let mut begun = false;
    loop {
        // Read again each time: a second kill may have shortened the grace or asked for force.
        let process = context.processes.read(id).await?;
        if process.lifecycle == Lifecycle::Gone {
            return Ok(Ending::SUCCEEDED);
        }
        if report::has_claim(&context.pool, id).await? {
            // A start that is under way sees the wish at its next look and ends; until then it may still create something.
            sleep(LOOK_EVERY).await;
            continue;
        }
        if !std::mem::replace(&mut begun, true) {
            let waited = (Utc::now() - claim.created_at).to_std().unwrap_or_default();
            metrics::histogram!("octopus_kill_request_wait_seconds").record(waited);
        }
        let controllers = context.cluster.controllers(&process).await?;
        let pods: Vec<Pod> = context.cluster.list(&selector).await?;
        if controllers.is_empty() && pods.is_empty() {
            // Not before: what still ran kept what it may reach.
            if policy::is_needed(&context.cluster.around.reach, &process) {
                context.cluster.remove_policies(id).await?;
            }
            let verdict = last_verdict(&process, end_seen);
            failpoint!("kill-empty");
            report::gone(&context.pool, claim, id, &verdict).await?;
            failpoint!("kill-gone");
            return Ok(Ending::SUCCEEDED);
        }
        if process.lifecycle < Lifecycle::Stopping {
            failpoint!("kill-claimed");
            report::stopping(&context.pool, claim, id).await?;
            failpoint!("kill-stopping");
            context.announce(claim);
        }
        take_away(&context.cluster, &controllers).await?;
        failpoint!("kill-taken-away");
        // Only once nothing would replace them.
        if controllers.is_empty() {
            for pod in &pods {
                end_seen &= end(context, &process, pod).await?;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

fn last_verdict(process: &ProcessRow, end_seen: bool) -> Verdict {
    if process.lifecycle == Lifecycle::Requested {
        Verdict {
            reason: Some(reason::KILLED_BEFORE_CREATION),
            ..Verdict::plain(ProcessState::Killed)
        }
    } else if end_seen {
        Verdict {
            reason: Some(reason::KILL_REQUESTED),
            ..Verdict::plain(ProcessState::Killed)
        }
    } else {
        Verdict::because(
            ProcessState::Unconfirmed,
            reason::KILL_UNCONFIRMED,
            "its pod was deleted before anybody saw its container end",
        )
    }
}

async fn take_away(cluster: &Cluster, controllers: &Controllers) -> Result<(), ClusterError> {
    for ingress in &controllers.ingresses {
        cluster
            .remove::<Ingress>(&ingress.metadata, Deletion::Orphaning)
            .await?;
    }
    for deployment in &controllers.deployments {
        cluster
            .remove::<Deployment>(&deployment.metadata, Deletion::Orphaning)
            .await?;
    }
    failpoint!("kill-deployment");
    // A Deployment that still exists would make a deleted ReplicaSet again.
    if controllers.deployments.is_empty() {
        for replica_set in &controllers.replica_sets {
            cluster
                .remove::<ReplicaSet>(&replica_set.metadata, Deletion::Orphaning)
                .await?;
        }
    }
    for service in &controllers.services {
        cluster
            .remove::<Service>(&service.metadata, Deletion::Orphaning)
            .await?;
    }
    Ok(())
}

/// Does what is to be done with one pod. False: it was deleted before its end was seen.
async fn end(context: &Context, process: &ProcessRow, pod: &Pod) -> Result<bool, Obstacle> {
    let (Some(name), Some(uid)) = (&pod.metadata.name, &pod.metadata.uid) else {
        return Ok(true);
    };
    let wish = Wish {
        grace_seconds: process.kill_grace_seconds,
        force: process.kill_force,
        logs_open: report::logs_open(&context.pool, uid).await?,
    };
    match decide(pod, wish, Utc::now()) {
        Action::Wait => Ok(true),
        Action::LowerDeadline => match context.cluster.lower_deadline(pod, Utc::now()).await {
            // It changed since it was read: the next look decides again.
            Ok(()) | Err(ClusterError::Refused { code: 409, .. }) => {
                failpoint!("kill-lowered");
                Ok(true)
            }
            Err(error) => Err(error.into()),
        },
        Action::Delete(deletion) => {
            context.cluster.delete::<Pod>(name, uid, deletion).await?;
            failpoint!("kill-deleted");
            // From 1.22 on a kubelet confirms a deletion with a grace only once the containers have ended.
            let confirmed = match deletion {
                Deletion::Within(0) => false,
                Deletion::Within(_) => context.cluster.minor >= 22,
                Deletion::Graceful | Deletion::Orphaning => true,
            };
            Ok(confirmed || state::fold(pod, false).is_some_and(|seen| seen.ended))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-02T03:05:00Z";

    fn pod(phase: &str, state: Value, stopping_since: Option<&str>) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "labels": {label::PROCESS: uuid::Uuid::nil().to_string()},
                         "annotations": stopping_since.map(|since| json!({label::STOPPING_SINCE: since}))},
            "status": {"phase": phase, "containerStatuses": [
                {"name": "function", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}
        }))
        .unwrap()
    }

    #[test]
    fn one_look_decides() {
        let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
        let running = json!({"running": {"startedAt": "2026-01-02T03:04:05Z"}});
        let ended = json!({"terminated": {"exitCode": 0, "startedAt": "2026-01-02T03:04:05Z"}});
        let long_ago = Some("2026-01-02T03:04:30Z");
        let wish = Wish {
            grace_seconds: None,
            force: false,
            logs_open: true,
        };
        let sealed = Wish {
            logs_open: false,
            ..wish
        };
        let hurried = Wish {
            grace_seconds: Some(5),
            ..wish
        };
        let forced = Wish { force: true, ..wish };
        for (name, pod, wish, expected) in [
            (
                "never started",
                pod("Pending", waiting.clone(), None),
                sealed,
                Action::Delete(Deletion::Graceful),
            ),
            (
                "running",
                pod("Running", running.clone(), None),
                wish,
                Action::LowerDeadline,
            ),
            (
                "running within its own grace",
                pod("Running", running.clone(), long_ago),
                wish,
                Action::Wait,
            ),
            (
                "running beyond the asked grace",
                pod("Failed", running.clone(), long_ago),
                hurried,
                Action::Delete(Deletion::Within(1)),
            ),
            (
                "running within the asked grace",
                pod("Failed", running.clone(), Some("2026-01-02T03:04:57Z")),
                hurried,
                Action::Wait,
            ),
            (
                "ended, log being read",
                pod("Failed", ended.clone(), long_ago),
                wish,
                Action::Wait,
            ),
            (
                "ended by itself, log being read",
                pod("Succeeded", ended.clone(), None),
                wish,
                Action::Wait,
            ),
            (
                "ended, log stored",
                pod("Failed", ended.clone(), long_ago),
                sealed,
                Action::Delete(Deletion::Graceful),
            ),
            (
                "end inferred, log stored",
                pod("Failed", running.clone(), long_ago),
                sealed,
                Action::Delete(Deletion::Graceful),
            ),
            (
                "by force",
                pod("Running", running, None),
                forced,
                Action::Delete(Deletion::Within(0)),
            ),
        ] {
            assert_eq!(decide(&pod, wish, NOW.parse().unwrap()), expected, "{name}");
        }
    }

    fn any_pod() -> impl Strategy<Value = Pod> {
        let state = prop_oneof![
            Just(json!({"waiting": {"reason": "ContainerCreating"}})),
            Just(json!({"running": {"startedAt": "2026-01-02T03:04:05Z"}})),
            Just(json!({"terminated": {"exitCode": 0, "startedAt": "2026-01-02T03:04:05Z"}})),
        ];
        let phase = prop_oneof![
            Just("Pending"),
            Just("Running"),
            Just("Failed"),
            Just("Succeeded"),
            Just("Unknown")
        ];
        (phase, state, prop::option::of(0..120_i64), 0..3_i32, any::<bool>()).prop_map(
            |(phase, state, stopping_for, restarts, is_deleted)| {
                let now: DateTime<Utc> = NOW.parse().unwrap();
                let since = stopping_for.map(|seconds| (now - TimeDelta::seconds(seconds)).to_rfc3339());
                let mut pod = pod(phase, state, since.as_deref());
                let statuses = pod
                    .status
                    .as_mut()
                    .and_then(|status| status.container_statuses.as_mut())
                    .unwrap();
                statuses[0].restart_count = restarts;
                if is_deleted {
                    pod.metadata.deletion_timestamp = serde_json::from_value(json!(NOW)).unwrap();
                }
                pod
            },
        )
    }

    proptest! {
        /// Whatever a pod looks like: no log is given up that nobody asked to give up, and no pod is left for good.
        #[test]
        fn no_look_loses_a_log_or_leaves_a_pod(
            pod in any_pod(), grace_seconds in prop::option::of(0..60_i32), force in any::<bool>(), logs_open in any::<bool>(),
        ) {
            let action = decide(&pod, Wish { grace_seconds, force, logs_open }, NOW.parse().unwrap());
            let seen = state::fold(&pod, false).unwrap();
            let has_started = seen.restart_count > 0 || seen.containers[0].started_at.is_some();
            let is_final = matches!(seen.phase.as_str(), "Failed" | "Succeeded");
            let is_going = pod.metadata.deletion_timestamp.is_some();
            match action {
                Action::Delete(Deletion::Within(0)) => prop_assert!(force),
                Action::Delete(_) if force => prop_assert!(false, "force does not wait"),
                Action::Delete(Deletion::Graceful) => prop_assert!(!is_going && (!has_started || !logs_open)),
                Action::Delete(Deletion::Within(_)) => prop_assert!(!is_going && grace_seconds.is_some() && !seen.ended),
                Action::Delete(Deletion::Orphaning) => prop_assert!(false, "a pod has nothing to orphan"),
                Action::LowerDeadline => prop_assert!(has_started && !is_final && stopping_since(&pod).is_none()),
                Action::Wait => {
                    prop_assert!(!force);
                    prop_assert!(is_going || has_started, "what has not started is removed at once");
                    prop_assert!(is_going || !is_final || logs_open, "what has ended and is stored is removed");
                    prop_assert!(is_going || is_final || stopping_since(&pod).is_some(), "what runs is told to end");
                }
            }
        }
    }
}
