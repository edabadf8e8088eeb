//! What has to happen again and again while a cluster is watched: finished pods go, streams without a pod are sealed,
//! partitions are made, the cluster is reported.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use octopus_shared::db::claim;
use octopus_shared::db::report::{self, ClusterReport};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::Watching;
use super::logs::Logs;
use super::reader::Found;
use crate::cluster::{ClusterError, Deletion, state};

/// Without a word of a pod that may go. A word comes as soon as its log is sealed.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Between two sweeps at least: a crowd of ends is one.
const SWEEP_PAUSE: Duration = Duration::from_millis(200);
const PARTITIONS_EVERY: Duration = Duration::from_hours(1);
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// While the API server is away.
const ASK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(watching: &Watching, logs: &Logs) {
    let mut next_streams = Instant::now();
    loop {
        remove_finished(watching).await;
        if Instant::now() >= next_streams {
            logs.tidy().await;
            resume_streams(watching, logs).await;
            give_up_images(watching).await;
            next_streams = Instant::now() + SWEEP_EVERY;
        }
        if !watching.sleep(SWEEP_PAUSE).await {
            return;
        }
        tokio::select! {
            () = watching.ended.notified() => {}
            () = sleep(SWEEP_EVERY) => {}
            () = watching.lost.cancelled() => return,
        }
    }
}

/// Makes the partitions of the coming days, and drops those of days long ago.
pub(super) async fn keep_partitions(watching: &Watching) {
    loop {
        let kept = claim::maintain_partitions(&watching.context.pool, watching.context.config.keep_days).await;
        watching.written(kept.map_err(Into::into));
        if !watching.sleep(PARTITIONS_EVERY).await {
            return;
        }
    }
}

/// Tasks that have ended and whose logs are stored do not need their pods any more.
async fn remove_finished(watching: &Watching) {
    let found = report::finished_pods(&watching.context.pool, &watching.watch).await;
    let found = watching.written(found.map_err(Into::into)).unwrap_or_default();
    if found.len() >= report::REMOVED_AT_ONCE {
        watching.ended.notify_one();
    }
    for pod in found {
        let removed = watching
            .context
            .cluster
            // Its end was seen and its log is stored. If somebody else deleted it, its kubelet may be long in confirming that.
            .delete::<Pod>(&pod.name, &pod.uid, Deletion::Within(0))
            .await;
        if let Err(error) = removed {
            tracing::info!(pod.name = %pod.name, error = %error, "a finished pod could not be removed yet");
            // One that is refused is no reason to keep the others.
            if matches!(error, ClusterError::Away(_) | ClusterError::Busy { .. }) {
                return;
            }
        }
    }
}

/// Tasks whose image does not come fail after a while: their nodes would try for ever.
async fn give_up_images(watching: &Watching) {
    let context = &watching.context;
    let found = report::waiting_pods(&context.pool, &watching.watch, &context.config.image_grace()).await;
    for pod in watching.written(found.map_err(Into::into)).unwrap_or_default() {
        let given_up = async {
            let found = context.cluster.pod(&pod.name, &pod.uid).await?;
            match found.filter(|pod| pod.metadata.deletion_timestamp.is_none() && state::waits_for_image(pod)) {
                Some(found) => context.cluster.give_up(&found, pod.why, &pod.words).await,
                None => Ok(()),
            }
        };
        match given_up.await {
            Ok(()) => tracing::info!(pod.name = %pod.name, why = pod.why.id, "a task waited for its image in vain"),
            Err(error) => {
                tracing::info!(pod.name = %pod.name, error = %error, "a pod without an image could not be removed yet");
                return;
            }
        }
    }
}

/// Streams that an earlier watch left open. The reader finds out whether their pod still exists.
async fn resume_streams(watching: &Watching, logs: &Logs) {
    let open = report::unsealed_streams(&watching.context.pool, &watching.watch).await;
    let open = watching.written(open.map_err(Into::into)).unwrap_or_default();
    logs.read(open, Found::Open).await;
}

/// Tells the API what is seen of the cluster.
pub(super) async fn report_cluster(watching: &Watching) {
    loop {
        let was_away = !watching.context.health.cluster();
        let seen = look(watching).await;
        let reachable = seen.reachable;
        let stored = report::report_cluster(&watching.context.pool, &watching.watch, &seen).await;
        if watching.written(stored) == Some(true) {
            watching.hindered.notify_one();
        }
        if !answered(watching, was_away, reachable).await {
            return;
        }
    }
}

/// Looks whether the API server answers, where another manager reports it.
pub(super) async fn ask_cluster(watching: &Watching) {
    loop {
        let was_away = !watching.context.health.cluster();
        let reachable = watching.context.cluster_answers().await;
        if !answered(watching, was_away, reachable).await {
            return;
        }
    }
}

/// Remembers whether the API server answers, and sleeps until it is to be asked again. False: the watch is over.
async fn answered(watching: &Watching, was_away: bool, reachable: bool) -> bool {
    watching.context.health.set_cluster(reachable);
    if reachable && was_away {
        watching.returned.notify_waiters();
    }
    watching.sleep(if reachable { REPORT_EVERY } else { ASK_EVERY }).await
}

async fn look(watching: &Watching) -> ClusterReport {
    let cluster = &watching.context.cluster;
    let reconcile_halted = watching.context.health.halted();
    let looked = async { Ok::<_, ClusterError>((watching.context.ping().await?, cluster.quotas().await?)) };
    match looked.await {
        Ok((version, quotas)) => ClusterReport {
            reachable: true,
            version: Some(version),
            quota: quota(&quotas),
            message: None,
            reconcile_halted,
        },
        Err(error) => ClusterReport {
            message: Some(error.to_string()),
            quota: json!({}),
            reconcile_halted,
            ..ClusterReport::default()
        },
    }
}

/// `{resource: {hard, used}}` over all quotas of the namespace.
fn quota(quotas: &[ResourceQuota]) -> Value {
    let mut all = Map::new();
    for status in quotas.iter().filter_map(|quota| quota.status.as_ref()) {
        for (resource, hard) in status.hard.iter().flatten() {
            let used = status.used.as_ref().and_then(|used| used.get(resource));
            all.insert(
                resource.clone(),
                json!({ "hard": hard.0, "used": used.map(|used| &used.0) }),
            );
        }
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_shown_with_their_use() {
        let read: ResourceQuota =
            serde_json::from_value(json!({"status": {"hard": {"pods": "10"}, "used": {"pods": "3"}}})).unwrap();
        assert_eq!(quota(&[read]), json!({"pods": {"hard": "10", "used": "3"}}));
        assert_eq!(quota(&[]), json!({}));
    }
}
