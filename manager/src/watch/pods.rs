//! Pods -> rows. The watch is for latency, a plain list every 30 s is the truth.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use octopus_shared::db::report;
use octopus_shared::pod::PodObservation;
use tokio::time::Instant;

use super::Watching;
use super::logs::Logs;
use crate::cluster::{label, state};

const LIST_EVERY: Duration = Duration::from_secs(30);

pub(super) async fn run(watching: &Watching, logs: &Logs) {
    let mut seen = Seen::default();
    while !watching.lost.is_cancelled() {
        follow(watching, logs, &mut seen).await;
        watching.sleep(Duration::from_secs(1)).await;
    }
}

/// What was last written, so that a list of unchanged pods writes nothing. Empty at every start.
#[derive(Default)]
struct Seen(HashMap<String, PodObservation>);

/// Watches until the stream ends or the watch is over.
async fn follow(watching: &Watching, logs: &Logs, seen: &mut Seen) {
    let cluster = &watching.context.cluster;
    let selector = label::of_shards(cluster.around.installation, &watching.watch.shards);
    // The server ends each call after 55 s: a connection that died silently is noticed within a minute.
    let settings = watcher::Config::default().labels(&selector).timeout(55);
    let events = watcher::watcher(cluster.api::<Pod>(), settings);
    pin_mut!(events);
    let mut listed = HashSet::new();
    let mut next_list = Instant::now() + LIST_EVERY;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = tokio::time::sleep_until(next_list) => {
                list(watching, logs, seen, &selector).await;
                next_list = Instant::now() + LIST_EVERY;
                continue;
            }
            () = watching.lost.cancelled() => return,
        };
        match event {
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(pod))) => {
                listed.extend(pod.metadata.uid.clone());
                observe(watching, logs, seen, &pod, false).await;
            }
            Some(Ok(Event::InitDone)) => {
                watching.context.health.set_cluster(true);
                mark_missing(watching, seen, &listed).await;
            }
            Some(Ok(Event::Apply(pod))) => observe(watching, logs, seen, &pod, false).await,
            Some(Ok(Event::Delete(pod))) => observe(watching, logs, seen, &pod, true).await,
            // An error is an item, not the end: the watcher lists again, after its backoff or ours.
            Some(Err(error)) => {
                tracing::info!(error = %error, "the watch of the pods was interrupted");
                metrics::counter!("octopus_watch_interruptions_total").increment(1);
                watching.sleep(Duration::from_millis(500)).await;
            }
            None => return,
        }
    }
}

async fn list(watching: &Watching, logs: &Logs, seen: &mut Seen, selector: &str) {
    // Before the list: what appears while it is taken is not missing.
    let Some(known) = known(watching).await else { return };
    match watching.context.cluster.list::<Pod>(selector).await {
        Ok(pods) => {
            let listed: HashSet<String> = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
            for pod in &pods {
                observe(watching, logs, seen, pod, false).await;
            }
            gone(watching, seen, known.difference(&listed).cloned().collect()).await;
        }
        Err(error) => tracing::info!(error = %error, "the pods could not be listed"),
    }
}

async fn known(watching: &Watching) -> Option<HashSet<String>> {
    let rows = report::live_pods(&watching.context.pool, &watching.watch).await;
    let rows = watching.written(rows.map_err(Into::into))?;
    Some(rows.into_iter().map(|(uid, _)| uid).collect())
}

async fn mark_missing(watching: &Watching, seen: &mut Seen, listed: &HashSet<String>) {
    if let Some(known) = known(watching).await {
        gone(watching, seen, known.difference(listed).cloned().collect()).await;
    }
}

async fn gone(watching: &Watching, seen: &mut Seen, missing: Vec<String>) {
    if missing.is_empty() {
        return;
    }
    for uid in &missing {
        seen.0.remove(uid);
    }
    let marked = report::mark_missing(&watching.context.pool, &watching.watch, &missing).await;
    for process in watching.written(marked).unwrap_or_default() {
        watching.context.changes.announce(process);
    }
}

async fn observe(watching: &Watching, logs: &Logs, seen: &mut Seen, pod: &Pod, deleted: bool) {
    let Some(observation) = state::fold(pod, deleted) else {
        return;
    };
    let unchanged = |last: &PodObservation| {
        PodObservation {
            resource_version: observation.resource_version.clone(),
            ..last.clone()
        } == observation
    };
    if !seen.0.get(&observation.uid).is_some_and(unchanged) {
        let stored = report::observe_pod(&watching.context.pool, &watching.watch, &observation).await;
        match watching.written(stored) {
            // Not ours, or not stored: the next list tries again.
            None | Some(false) => return,
            Some(true) => watching.context.changes.announce(observation.process_id),
        }
    }
    logs.ensure(&observation).await;
    if observation.ended {
        watching.ended.notify_one();
    }
    if deleted {
        seen.0.remove(&observation.uid);
    } else {
        seen.0.insert(observation.uid.clone(), observation);
    }
}
