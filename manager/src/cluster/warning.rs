//! Kubernetes' Events -> what they explain. Pure. Only warnings about pods, and that one was preempted; a status that says why by itself is
//! left alone.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Event;
use octopus_shared::pod::{PodEvent, PodObservation, Verdict};
use octopus_shared::process::ProcessState;
use octopus_shared::reason;

use super::object::CONTAINER;
use super::state::utc;
use super::why;

/// What watches ask for: fields of Events cannot be asked for by one or another.
pub const SELECTORS: [&str; 2] = [
    "involvedObject.kind=Pod,type=Warning",
    "involvedObject.kind=Pod,reason=Preempted",
];
/// Events that are shown of a pod.
const SHOWN: usize = 10;
/// Pods whose Events are remembered: also of those that were not seen yet, or are not ours.
const PODS: usize = 10_000;
/// Bytes of a message that are kept.
const WORDS: usize = 1000;

/// The Events about each pod, by its uid.
#[derive(Debug, Default)]
pub struct Warnings(HashMap<String, Vec<PodEvent>>);

impl Warnings {
    /// Takes an Event. Answers the uid of its pod.
    pub fn take(&mut self, event: &Event) -> Option<String> {
        let pod = event.involved_object.uid.clone()?;
        let taken = PodEvent {
            uid: event.metadata.uid.clone()?,
            reason: event.reason.clone().unwrap_or_default(),
            message: event
                .message
                .as_deref()
                .unwrap_or_default()
                .chars()
                .take(WORDS)
                .collect(),
            count: event
                .count
                .or(event.series.as_ref().and_then(|series| series.count))
                .unwrap_or(1),
            at: last_seen(event)?,
        };
        if self.0.len() >= PODS && !self.0.contains_key(&pod) {
            self.0.clear();
        }
        let events = self.0.entry(pod.clone()).or_default();
        events.retain(|known| known.uid != taken.uid);
        events.push(taken);
        events.sort_by_key(|event| event.at);
        events.drain(..events.len().saturating_sub(SHOWN));
        Some(pod)
    }

    /// The pod is gone.
    pub fn forget(&mut self, pod: &str) {
        self.0.remove(pod);
    }

    /// Those of a pod, the newest last.
    pub fn of(&self, pod: &str) -> Vec<PodEvent> {
        self.0.get(pod).cloned().unwrap_or_default()
    }
}

fn last_seen(event: &Event) -> Option<DateTime<Utc>> {
    let micro = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref())
        .or(event.event_time.as_ref())
        .and_then(|at| i64::try_from(at.0.as_nanosecond()).ok())
        .map(DateTime::from_timestamp_nanos);
    event.last_timestamp.as_ref().map(utc).or(micro)
}

/// A look at a pod, with what it means beside the Events about it.
pub fn explained(look: &PodObservation) -> PodObservation {
    PodObservation {
        verdict: verdict(look),
        ..look.clone()
    }
}

fn verdict(look: &PodObservation) -> Verdict {
    let verdict = look.verdict.clone();
    if let Some(preempted) = preempted(look) {
        return preempted;
    }
    if is_back_off(&verdict) {
        return why_pulled_again(look).unwrap_or(verdict);
    }
    // How an earlier run ended says less of one that is ill than its health.
    if verdict.reason.is_some() && verdict.state != ProcessState::Running {
        return verdict;
    }
    let container = look.containers.iter().find(|container| container.name == CONTAINER);
    let since = container.and_then(|container| container.started_at);
    let found = look.events.iter().rev().find_map(|event| {
        let why = match (verdict.state, event.reason.as_str()) {
            (ProcessState::Starting, "FailedMount" | "FailedAttachVolume") => {
                why::volume(&event.message).unwrap_or(reason::VOLUME_NOT_MOUNTED)
            }
            (ProcessState::Starting, "FailedCreatePodSandBox") => reason::SANDBOX_FAILED,
            // What its start was asked for is not its health, and an earlier run's is not this one's.
            (ProcessState::Running, "Unhealthy")
                if event.message.starts_with("Readiness probe") && since.is_none_or(|since| since <= event.at) =>
            {
                reason::UNHEALTHY
            }
            _ => return None,
        };
        Some((why, event.message.clone()))
    });
    match found {
        Some((why, message)) => Verdict {
            reason: Some(why),
            message: Some(message),
            ..verdict
        },
        None => verdict,
    }
}

/// Whether the scheduler has deleted it in favour of another pod, or is about to.
pub fn is_preempted(look: &PodObservation) -> bool {
    preemption(look).is_some()
}

fn preemption(look: &PodObservation) -> Option<&PodEvent> {
    look.events.iter().rev().find(|event| event.reason == "Preempted")
}

/// The status says so by itself since Kubernetes 1.26 only.
fn preempted(look: &PodObservation) -> Option<Verdict> {
    let event = preemption(look)?;
    let verdict = &look.verdict;
    let ended_by_deletion = [reason::SIGNAL, reason::EXIT_CODE, reason::DELETED_BY_OTHER];
    let state = match verdict.state {
        ProcessState::Failed if verdict.reason.is_none_or(|why| ended_by_deletion.contains(&why)) => verdict.state,
        ended if ended.is_terminal() => return None,
        _ if look.gone => ProcessState::Failed,
        ProcessState::Stopping => verdict.state,
        _ => return None,
    };
    Some(Verdict {
        exit_code: verdict.exit_code,
        ..Verdict::because(state, reason::PREEMPTED, event.message.clone())
    })
}

/// The status says that the image is pulled again later, and no longer why.
fn is_back_off(verdict: &Verdict) -> bool {
    let says = |message: &String| message.starts_with("Back-off pulling image");
    verdict.reason == Some(reason::IMAGE_PULL_FAILED) && verdict.message.as_ref().is_some_and(says)
}

/// What the status said before, as the Event of the last try has it: `Failed to pull image "<image>": <why>`.
fn why_pulled_again(look: &PodObservation) -> Option<Verdict> {
    let words = look.events.iter().rev().find_map(|event| {
        let tried = event.message.strip_prefix("Failed to pull image \"")?;
        Some(tried.split_once("\": ")?.1)
    })?;
    Some(Verdict::because(look.verdict.state, why::image(words), words))
}

#[cfg(test)]
mod tests {
    use octopus_shared::pod::ContainerStatus;
    use serde_json::{Value, json};

    use super::*;

    fn event(uid: &str, reason: &str, message: &str, at: &str) -> Event {
        let event: Value = json!({
            "metadata": {"uid": uid},
            "involvedObject": {"kind": "Pod", "uid": "pod"},
            "reason": reason, "message": message, "lastTimestamp": at, "count": 3,
        });
        serde_json::from_value(event).unwrap()
    }

    fn at(second: u32) -> String {
        format!("2026-01-02T03:04:{second:02}Z")
    }

    fn look(state: ProcessState, reason: Option<reason::Reason>, events: Vec<PodEvent>) -> PodObservation {
        PodObservation {
            uid: "pod".into(),
            process_id: uuid::Uuid::nil(),
            attempt: 1,
            wish: None,
            shard: 0,
            name: "pod".into(),
            node: None,
            phase: "Running".into(),
            verdict: Verdict {
                reason,
                ..Verdict::plain(state)
            },
            restart_count: 0,
            containers: vec![ContainerStatus {
                name: CONTAINER.into(),
                container_id: None,
                restart_count: 0,
                state: "running".into(),
                reason: None,
                exit_code: None,
                started_at: Some(at(10).parse().unwrap()),
                finished_at: None,
            }],
            events,
            resource_version: "1".into(),
            created_at: DateTime::UNIX_EPOCH,
            ended: false,
            gone: false,
        }
    }

    #[test]
    fn the_newest_that_explains_a_state_does() {
        use ProcessState::{Ready, Running, Starting};
        let unhealthy = "Readiness probe failed: HTTP probe failed with statuscode: 503";
        let mount = "MountVolume.SetUp failed: no such directory";
        for (state, known, events, expected) in [
            (
                Starting,
                None,
                vec![("FailedMount", mount, 1)],
                Some("volume_not_mounted"),
            ),
            (
                Starting,
                None,
                vec![("FailedMount", mount, 1), ("FailedCreatePodSandBox", "no network", 2)],
                Some("sandbox_failed"),
            ),
            (
                Starting,
                None,
                vec![("FailedMount", mount, 1), ("Whatever", "new", 2)],
                Some("volume_not_mounted"),
            ),
            (
                Starting,
                None,
                vec![("FailedMount", "persistentvolumeclaim \"a\" not found", 1)],
                Some("volume_not_found"),
            ),
            // The status said more.
            (
                Starting,
                Some(reason::UNSCHEDULABLE),
                vec![("FailedMount", mount, 1)],
                Some("unschedulable"),
            ),
            (Running, None, vec![("FailedMount", mount, 1)], None),
            (Running, None, vec![("Unhealthy", unhealthy, 20)], Some("unhealthy")),
            (Running, None, vec![("Unhealthy", unhealthy, 5)], None),
            (
                Running,
                None,
                vec![("Unhealthy", "Startup probe failed: refused", 20)],
                None,
            ),
            (Ready, None, vec![("Unhealthy", unhealthy, 20)], None),
            (
                Running,
                Some(reason::EXIT_CODE),
                vec![("Unhealthy", unhealthy, 20)],
                Some("unhealthy"),
            ),
            (
                Running,
                Some(reason::EXIT_CODE),
                vec![("Unhealthy", unhealthy, 5)],
                Some("exit_code"),
            ),
            (Starting, None, vec![], None),
        ] {
            let mut warnings = Warnings::default();
            for (number, (reason, message, second)) in events.iter().enumerate() {
                warnings.take(&event(&number.to_string(), reason, message, &at(*second)));
            }
            let verdict = verdict(&look(state, known, warnings.of("pod")));
            assert_eq!(
                (verdict.state, verdict.reason.map(|reason| reason.id)),
                (state, expected),
                "{events:?}"
            );
            let is_new = known.map(|known| known.id) != expected;
            assert_eq!(verdict.message.is_some(), is_new && expected.is_some());
        }
    }

    #[test]
    fn a_pod_that_the_scheduler_deleted_says_for_whom() {
        use ProcessState::{Failed, Ready, Stopping, Succeeded};
        const WORDS: &str = "Preempted by functions/other on node n";
        let mut warnings = Warnings::default();
        warnings.take(&event("1", "Preempted", WORDS, &at(1)));
        for (state, known, gone, expected) in [
            // It has not been deleted yet.
            (Ready, None, false, (Ready, None)),
            (Stopping, None, false, (Stopping, Some("preempted"))),
            (Stopping, None, true, (Failed, Some("preempted"))),
            (Ready, None, true, (Failed, Some("preempted"))),
            (Failed, Some(reason::SIGNAL), true, (Failed, Some("preempted"))),
            (Failed, Some(reason::EXIT_CODE), false, (Failed, Some("preempted"))),
            // It ended by itself meanwhile.
            (Failed, Some(reason::OOM_KILLED), true, (Failed, Some("oom_killed"))),
            (Succeeded, None, true, (Succeeded, None)),
        ] {
            let found = verdict(&PodObservation {
                gone,
                ..look(state, known, warnings.of("pod"))
            });
            let id = found.reason.map(|reason| reason.id);
            assert_eq!((found.state, id), expected, "{state:?} {known:?} {gone}");
            assert_eq!(found.message.as_deref(), (id == Some("preempted")).then_some(WORDS));
        }
    }

    #[test]
    fn a_back_off_says_what_the_last_try_said() {
        const CAUSE: &str = "rpc error: code = NotFound desc = \"r:5000/f@sha256:0\": not found";
        let back_off = PodObservation {
            verdict: Verdict::because(
                ProcessState::Failing,
                reason::IMAGE_PULL_FAILED,
                "Back-off pulling image \"r:5000/f@sha256:0\"",
            ),
            ..look(ProcessState::Failing, None, Vec::new())
        };
        assert_eq!(verdict(&back_off), back_off.verdict, "no Event has come yet");
        let failed = format!("Failed to pull image \"r:5000/f@sha256:0\": {CAUSE}");
        let mut warnings = Warnings::default();
        for (number, message) in [failed.as_str(), "Error: ErrImagePull", "Error: ImagePullBackOff"]
            .iter()
            .enumerate()
        {
            warnings.take(&event(&number.to_string(), "Failed", message, &at(number as u32)));
        }
        let tried = PodObservation {
            events: warnings.of("pod"),
            ..back_off
        };
        let expected = Verdict::because(ProcessState::Failing, reason::IMAGE_NOT_FOUND, CAUSE);
        assert_eq!(verdict(&tried), expected);
        // What the status says by itself is newer.
        let refused = Verdict::because(ProcessState::Failing, reason::IMAGE_PULL_FAILED, "connection refused");
        let tried = PodObservation {
            verdict: refused.clone(),
            ..tried
        };
        assert_eq!(verdict(&tried), refused);
    }

    #[test]
    fn each_event_is_kept_once_the_newest_last_and_few() {
        let mut warnings = Warnings::default();
        for number in 0..20 {
            warnings.take(&event(&number.to_string(), "FailedMount", "m", &at(number)));
        }
        assert_eq!(
            warnings.take(&event("13", "FailedMount", "again", &at(30))).as_deref(),
            Some("pod")
        );
        let kept = warnings.of("pod");
        assert_eq!(kept.len(), SHOWN);
        assert_eq!(
            (kept[9].uid.as_str(), kept[9].message.as_str(), kept[9].count),
            ("13", "again", 3)
        );
        assert_eq!(kept.iter().filter(|event| event.uid == "13").count(), 1);
        warnings.forget("pod");
        assert!(warnings.of("pod").is_empty());
    }
}
