//! Pods -> rows. The watch is for latency, a plain list every 30 s is the truth.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::stream::{select, select_all};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Event as Warning, Pod};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use octopus_shared::db::report;
use octopus_shared::pod::{PodObservation, Verdict};
use octopus_shared::process::ProcessState;
use octopus_shared::reason;
use tokio::time::Instant;
use uuid::Uuid;

use super::Watching;
use super::logs::Logs;
use crate::cluster::warning::{self, Warnings};
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

/// What was last written, so that a list of unchanged pods writes nothing, and what Kubernetes warned of. Empty at every start.
#[derive(Default)]
struct Seen {
    looks: HashMap<String, PodObservation>,
    warnings: Warnings,
}

impl Seen {
    /// Those looks that show more than the one before them at the same pod, but for its resource version.
    fn new_in<'a>(&self, looks: &'a [PodObservation]) -> Vec<&'a PodObservation> {
        let mut last: HashMap<&str, &PodObservation> = HashMap::new();
        let mut is_new = |look: &&'a PodObservation| {
            let before = last.insert(&look.uid, look).or_else(|| self.looks.get(&look.uid));
            !before.is_some_and(|before| {
                let before = PodObservation {
                    resource_version: look.resource_version.clone(),
                    ..before.clone()
                };
                before == **look
            })
        };
        looks.iter().filter(|look| is_new(look)).collect()
    }

    /// A pod that was seen to end because it was deleted has: when its node confirms that, nothing shows any more that it had had time to.
    fn keep_deletions(&self, looks: &mut [PodObservation]) {
        let is_deletion = |verdict: &&Verdict| verdict.reason == Some(reason::DELETED_BY_OTHER);
        let mut deleted: HashMap<String, Verdict> = HashMap::new();
        for look in looks {
            let before = || self.looks.get(&look.uid).map(|before| &before.verdict);
            let before = deleted.get(&look.uid).or_else(before).filter(is_deletion);
            match (before, look.verdict.reason) {
                (Some(before), Some(reason::SIGNAL | reason::EXIT_CODE)) => look.verdict = before.clone(),
                _ if is_deletion(&&look.verdict) => {
                    deleted.insert(look.uid.clone(), look.verdict.clone());
                }
                _ => {}
            }
        }
    }

    fn remember(&mut self, look: &PodObservation) {
        if look.gone {
            self.forget(&look.uid);
        } else {
            self.looks.insert(look.uid.clone(), look.clone());
        }
    }

    /// Another look at each pod that Kubernetes warns of, for its warnings. Those among `looks` are seen with them anyway, and newer.
    fn again(&self, looks: &[PodObservation], warned: &HashSet<String>) -> Vec<PodObservation> {
        let older = warned.iter().filter(|uid| !looks.iter().any(|look| look.uid == **uid));
        older.filter_map(|uid| self.looks.get(uid).cloned()).collect()
    }

    /// The last looks at those of the missing pods that were preempted: their Events say why they are missing, and are forgotten with them.
    fn preempted(&self, missing: &[String]) -> Vec<PodObservation> {
        let looks = missing.iter().filter_map(|uid| self.looks.get(uid));
        looks
            .map(|look| PodObservation {
                gone: true,
                events: self.warnings.of(&look.uid),
                ..look.clone()
            })
            .filter(warning::is_preempted)
            .collect()
    }

    fn forget(&mut self, uid: &str) {
        self.looks.remove(uid);
        self.warnings.forget(uid);
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
    use super::*;

    fn look(uid: &str, version: &str, state: ProcessState) -> PodObservation {
        PodObservation {
            uid: uid.into(),
            process_id: Uuid::nil(),
            attempt: 1,
            wish: None,
            shard: 0,
            name: uid.into(),
            node: None,
            phase: "Running".into(),
            verdict: Verdict::plain(state),
            restart_count: 0,
            containers: Vec::new(),
            events: Vec::new(),
            resource_version: version.into(),
            created_at: chrono::DateTime::UNIX_EPOCH,
            ended: false,
            gone: false,
        }
    }

    #[test]
    fn a_warning_does_not_bring_an_older_look_back() {
        let mut seen = Seen::default();
        for uid in ["a", "b"] {
            seen.remember(&look(uid, "1", ProcessState::Starting));
        }
        let warned: HashSet<String> = ["a", "b", "unknown"].map(String::from).into();
        let again = seen.again(&[look("a", "2", ProcessState::Running)], &warned);
        let again: Vec<_> = again.iter().map(|look| look.uid.as_str()).collect();
        assert_eq!(again, ["b"]);
    }

    #[test]
    fn a_pod_that_was_deleted_stays_so_when_its_node_confirms_that() {
        let ended = |uid: &str, why, gone| PodObservation {
            verdict: Verdict::because(ProcessState::Failed, why, why.id),
            gone,
            ..look(uid, "1", ProcessState::Failed)
        };
        let (deleted, signal) = (reason::DELETED_BY_OTHER, reason::SIGNAL);
        let mut seen = Seen::default();
        seen.remember(&ended("a", deleted, false));
        seen.remember(&ended("b", signal, false));
        let mut looks = [
            ended("a", signal, false),
            ended("a", signal, true),
            ended("b", signal, true),
            ended("c", deleted, false),
            ended("c", signal, true),
            ended("a", reason::OOM_KILLED, true),
        ];
        seen.keep_deletions(&mut looks);
        let whys = looks.map(|look| look.verdict.reason.unwrap());
        assert_eq!(whys, [deleted, deleted, signal, deleted, deleted, reason::OOM_KILLED]);
    }

    #[test]
    fn a_pod_that_a_list_misses_first_was_preempted_if_its_event_says_so() {
        let mut seen = Seen::default();
        for uid in ["a", "b"] {
            seen.remember(&look(uid, "1", ProcessState::Ready));
        }
        for uid in ["a", "unknown"] {
            let event = serde_json::json!({
                "metadata": {"uid": format!("event of {uid}")},
                "involvedObject": {"kind": "Pod", "uid": uid},
                "reason": "Preempted", "message": "by a pod", "lastTimestamp": "2026-01-02T03:04:05Z",
            });
            seen.warnings.take(&serde_json::from_value(event).unwrap());
        }
        let missing = ["a", "b", "unknown"].map(String::from);
        let last = seen.preempted(&missing);
        let last: Vec<_> = last.iter().map(|look| (look.uid.as_str(), look.gone)).collect();
        assert_eq!(last, [("a", true)]);
    }

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

    #[test]
    fn every_change_is_stored_once_and_in_order() {
        let mut seen = Seen::default();
        seen.remember(&look("a", "1", ProcessState::Starting));
        let looks = [
            look("a", "2", ProcessState::Starting),
            look("a", "3", ProcessState::Ready),
            look("b", "4", ProcessState::Starting),
            look("a", "5", ProcessState::Ready),
            look("a", "6", ProcessState::Starting),
        ];
        let stored: Vec<_> = seen
            .new_in(&looks)
            .iter()
            .map(|look| look.resource_version.as_str())
            .collect();
        assert_eq!(stored, ["3", "4", "6"]);
    }
}
