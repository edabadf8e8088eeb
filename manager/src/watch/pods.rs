//! Pods -> rows. The watch is for latency, a plain list every 30 s is the truth.

use std::collections::HashSet;
use std::time::Duration;

use futures::stream::{select, select_all};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Event as Warning, Pod};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use octopus_shared::db::report;
use octopus_shared::pod::PodObservation;
use octopus_shared::process::ProcessState;
use octopus_shared::reason;
use tokio::time::Instant;
use uuid::Uuid;

use super::Watching;
use super::logs::Logs;
use super::seen::Seen;
use crate::cluster::warning;
use crate::cluster::{label, state};

const LIST_EVERY: Duration = Duration::from_secs(30);
/// Looks that are stored with one commit, at most.
const BATCH: usize = 64;
/// What comes so soon after looks that were stored is stored together: pods that are made by the hundred change twice each.
const GATHER: Duration = Duration::from_millis(20);
/// The same while processes wait to be created, which comes first.
const GATHER_IN_CROWD: Duration = Duration::from_millis(200);

pub(super) async fn run(watching: &Watching, logs: &Logs) {
    let mut seen = Seen::default();
    while !watching.lost.is_cancelled() {
        follow(watching, logs, &mut seen).await;
        watching.sleep(Duration::from_secs(1)).await;
    }
}

/// From one of the two watches.
enum Item {
    Pod(Box<watcher::Result<Event<Pod>>>),
    Warning(Box<watcher::Result<Event<Warning>>>),
}

/// Watches until the stream ends or the watch is over.
async fn follow(watching: &Watching, logs: &Logs, seen: &mut Seen) {
    let cluster = &watching.context.cluster;
    let selector = label::of_shards(cluster.around.installation, &watching.watch.shards);
    // The server ends each call after 55 s: a connection that was silent for longer has died, and the client ends it.
    let settings = watcher::Config::default().labels(&selector).timeout(55);
    let pods = watcher::watcher(cluster.watched::<Pod>(), settings).map(|event| Item::Pod(Box::new(event)));
    let warnings = warning::SELECTORS.map(|selector| {
        let settings = watcher::Config::default().fields(selector).timeout(55);
        let warnings = watcher::watcher(cluster.watched::<Warning>(), settings).default_backoff();
        warnings.map(|event| Item::Warning(Box::new(event))).boxed()
    });
    let events = select(pods, select_all(warnings)).ready_chunks(BATCH);
    pin_mut!(events);
    let (mut listed, mut known_before) = (HashSet::new(), None);
    let mut next_list = Instant::now() + LIST_EVERY;
    let mut revived = cluster.revived();
    loop {
        let events = tokio::select! {
            events = events.next() => events,
            () = tokio::time::sleep_until(next_list) => {
                tokio::select! {
                    () = list(watching, logs, seen, &selector) => {}
                    _ = revived.changed() => return,
                }
                next_list = Instant::now() + LIST_EVERY;
                continue;
            }
            () = watching.returned.notified() => return,
            _ = revived.changed() => return,
            () = watching.lost.cancelled() => return,
        };
        let Some(events) = events else { return };
        let (mut looks, mut warned) = (Vec::new(), HashSet::new());
        for event in events {
            let event = match event {
                Item::Pod(event) => *event,
                Item::Warning(event) => {
                    match *event {
                        Ok(Event::Apply(event) | Event::InitApply(event)) => warned.extend(seen.warnings.take(&event)),
                        Ok(_) => {}
                        // They explain; nothing waits for them.
                        Err(error) => tracing::debug!(error = %error, "Kubernetes' warnings were not seen"),
                    }
                    continue;
                }
            };
            match event {
                Ok(Event::Init) => {
                    listed.clear();
                    // Before the list: what appears while it is taken is not missing.
                    known_before = known(watching).await;
                }
                Ok(Event::InitApply(pod)) => {
                    listed.extend(pod.metadata.uid.clone());
                    looks.extend(state::fold(&pod, false));
                }
                Ok(Event::Apply(pod)) => looks.extend(state::fold(&pod, false)),
                Ok(Event::Delete(pod)) => looks.extend(state::fold(&pod, true)),
                Ok(Event::InitDone) => {
                    watching.context.health.set_cluster(true);
                    observe(watching, logs, seen, std::mem::take(&mut looks)).await;
                    if let Some(known) = known_before.take() {
                        gone(watching, logs, seen, known.difference(&listed).cloned().collect()).await;
                    }
                }
                // An error is an item, not the end: the watcher lists again, after its backoff or ours.
                Err(error) => {
                    tracing::info!(error = %error, "the watch of the pods was interrupted");
                    metrics::counter!("octopus_watch_interruptions_total").increment(1);
                    cluster.missed();
                    watching.sleep(Duration::from_millis(500)).await;
                }
            }
        }
        looks.extend(seen.again(&looks, &warned));
        if observe(watching, logs, seen, looks).await {
            let crowded = watching.context.cluster.is_crowded();
            watching.sleep(if crowded { GATHER_IN_CROWD } else { GATHER }).await;
        }
    }
}

async fn list(watching: &Watching, logs: &Logs, seen: &mut Seen, selector: &str) {
    // Before the list: what appears while it is taken is not missing.
    let Some(known) = known(watching).await else { return };
    let listed = |pod: Pod| Some((pod.metadata.uid.clone()?, state::fold(&pod, false)));
    match watching.context.cluster.list_as(selector, listed).await {
        Ok(pods) => {
            let (listed, looks): (HashSet<String>, Vec<_>) = pods.into_iter().unzip();
            observe(watching, logs, seen, looks.into_iter().flatten().collect()).await;
            gone(watching, logs, seen, known.difference(&listed).cloned().collect()).await;
        }
        Err(error) => tracing::info!(error = %error, "the pods could not be listed"),
    }
}

async fn known(watching: &Watching) -> Option<HashSet<String>> {
    let rows = report::live_pods(&watching.context.pool, &watching.watch).await;
    let rows = watching.written(rows.map_err(Into::into))?;
    Some(rows.into_iter().map(|(uid, _)| uid).collect())
}

async fn gone(watching: &Watching, logs: &Logs, seen: &mut Seen, missing: Vec<String>) {
    if missing.is_empty() {
        return;
    }
    let preempted = seen.preempted(&missing);
    observe(watching, logs, seen, preempted).await;
    for uid in &missing {
        seen.forget(uid);
    }
    let marked = report::mark_missing(&watching.context.pool, &watching.watch, &missing).await;
    for process in watching.written(marked).unwrap_or_default() {
        watching.context.changes.announce(process);
    }
}

/// Whether a look shows what the pod is like. That its node is lost is left to a later list when it may only be that the API server
/// was away.
fn is_news(look: &PodObservation, knows_nodes: bool) -> bool {
    let is_lost = look.verdict.state == ProcessState::Failing && look.verdict.reason == Some(reason::NODE_LOST);
    look.gone || knows_nodes || !is_lost
}

/// Stores looks at pods, in their order: those that show something new, with one commit for many. Answers whether any did.
async fn observe(watching: &Watching, logs: &Logs, seen: &mut Seen, mut looks: Vec<PodObservation>) -> bool {
    let mut is_new = false;
    let knows_nodes = watching.context.cluster.knows_nodes();
    looks.retain(|look| is_news(look, knows_nodes));
    for look in &mut looks {
        look.events = seen.warnings.of(&look.uid);
    }
    seen.keep_deletions(&mut looks);
    for looks in looks.chunks(BATCH) {
        let new = seen.new_in(looks);
        let mut not_ours: HashSet<Uuid> = new.iter().map(|look| look.process_id).collect();
        if !new.is_empty() {
            is_new = true;
            let new: Vec<_> = new.into_iter().map(warning::explained).collect();
            let stored = report::observe_pods(&watching.context.pool, &watching.watch, &new).await;
            // Not stored: the next list tries again.
            let Some(ours) = watching.written(stored) else {
                return is_new;
            };
            not_ours.retain(|process| !ours.contains(process));
            ours.into_iter()
                .for_each(|process| watching.context.changes.announce(process));
        }
        let ours = || looks.iter().filter(|look| !not_ours.contains(&look.process_id));
        logs.ensure(ours()).await;
        for look in ours() {
            if look.ended {
                watching.ended.notify_one();
            }
            seen.remember(look);
        }
    }
    is_new
}

#[cfg(test)]
mod tests {
    use octopus_shared::pod::Verdict;

    use super::*;
    use crate::watch::seen::tests::look;

    #[test]
    fn a_node_is_lost_only_to_an_api_server_that_would_know_better() {
        let lost = |state, gone| PodObservation {
            verdict: Verdict::because(state, reason::NODE_LOST, "its node has stopped answering"),
            gone,
            ..look("a", "1", state)
        };
        for (look, knows_nodes, expected) in [
            (lost(ProcessState::Failing, false), false, false),
            (lost(ProcessState::Failing, false), true, true),
            // Said by a kubelet, of a container that it has forgotten.
            (lost(ProcessState::Failed, false), false, true),
            (lost(ProcessState::Failing, true), false, true),
            (look("a", "1", ProcessState::Failing), false, true),
        ] {
            assert_eq!(is_news(&look, knows_nodes), expected, "{look:?}");
        }
    }
}
