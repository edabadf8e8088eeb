//! What was seen of the pods and stored, and what a new look adds to it. Pure.

use std::collections::{HashMap, HashSet};

use octopus_shared::pod::{PodObservation, Verdict};
use octopus_shared::reason;

use crate::cluster::warning::{self, Warnings};

/// What was last written, so that a list of unchanged pods writes nothing, and what Kubernetes warned of. Empty at every start.
#[derive(Default)]
pub(super) struct Seen {
    looks: HashMap<String, PodObservation>,
    pub(super) warnings: Warnings,
}

impl Seen {
    /// Those looks that show more than the one before them at the same pod, but for its resource version.
    pub(super) fn new_in<'a>(&self, looks: &'a [PodObservation]) -> Vec<&'a PodObservation> {
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
    pub(super) fn keep_deletions(&self, looks: &mut [PodObservation]) {
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

    pub(super) fn remember(&mut self, look: &PodObservation) {
        if look.gone {
            self.forget(&look.uid);
        } else {
            self.looks.insert(look.uid.clone(), look.clone());
        }
    }

    /// Another look at each pod that Kubernetes warns of, for its warnings. Those among `looks` are seen with them anyway, and newer.
    pub(super) fn again(&self, looks: &[PodObservation], warned: &HashSet<String>) -> Vec<PodObservation> {
        let older = warned.iter().filter(|uid| !looks.iter().any(|look| look.uid == **uid));
        older.filter_map(|uid| self.looks.get(uid).cloned()).collect()
    }

    /// The last looks at those of the missing pods that were preempted: their Events say why they are missing, and are forgotten with them.
    pub(super) fn preempted(&self, missing: &[String]) -> Vec<PodObservation> {
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

    pub(super) fn forget(&mut self, uid: &str) {
        self.looks.remove(uid);
        self.warnings.forget(uid);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use octopus_shared::process::ProcessState;
    use uuid::Uuid;

    use super::*;

    /// A look at a pod.
    pub(in crate::watch) fn look(uid: &str, version: &str, state: ProcessState) -> PodObservation {
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
