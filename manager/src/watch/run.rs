//! Pod status -> what became of one run of one container. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use octopus_shared::db::report::StreamKey;

use super::stream::Mode;
use crate::cluster::state;

/// Seconds after the end of a container in which a line may be stamped that it printed before, once its kubelet waits before it
/// starts it again: it waits for 10 s at least. One that has not said so may start it at once, and then no line is taken for one of these.
const WRITTEN_LATE: i64 = 5;
/// Kubernetes' own, where a pod names none.
const USUAL_GRACE: u64 = 30;

/// What a look at the pod says about this run of the container.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// It goes on.
    Going,
    /// Its end is in the status, and its pod has ended with it; its log is the current one.
    Ended,
    /// Its end is in the status, and another run may follow at any time: until then its log is the current one. No line of
    /// it is later than `until`, in nanoseconds since 1970; None when the node does not say, or nothing can follow.
    Between { until: Option<i64> },
    /// Another run has followed; its log is the previous one, if the node still has it.
    Previous,
    /// More than one run has followed: the node has removed its log.
    Removed,
    /// The pod is ending and the status will not say when the container has ended (kubelets before 1.22): its node gives it `grace` seconds.
    Silent { grace: u64 },
    /// The pod has ended and its status does not know how the container did: its node has removed it, mostly with its log.
    Forgotten,
    /// The pod is gone, and with it its log.
    PodGone,
}

impl Run {
    /// Which log of its container is this run's.
    pub(super) fn mode(&self) -> Mode {
        if *self == Self::Previous {
            Mode::Previous
        } else {
            Mode::Once
        }
    }

    /// The time after which no line is this run's.
    pub(super) fn until(&self) -> Option<i64> {
        match self {
            Self::Between { until } => *until,
            _ => None,
        }
    }

    /// Whether another run may follow or has followed.
    pub(super) fn is_followed(&self) -> bool {
        matches!(self, Self::Between { .. } | Self::Previous | Self::Removed)
    }
}

/// What became of a run, by its pod.
pub(super) fn run_of(pod: &Pod, key: &StreamKey) -> Run {
    let Some(status) = &pod.status else { return Run::Going };
    let final_phase = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let Some(container) = container(pod, key) else {
        return if final_phase { Run::Forgotten } else { Run::Going };
    };
    let state = container.state.clone().unwrap_or_default();
    match (container.restart_count - key.restart, state::ended_run(container)) {
        // The kubelet made it up.
        (0, Some(ended)) if final_phase && !state::has_id(&ended.container_id) => Run::Forgotten,
        // A phase may be final a little later than its containers. Who deletes a pod does not wait for its log.
        (0, Some(_)) if final_phase || !may_run_again(pod) && pod.metadata.deletion_timestamp.is_none() => Run::Ended,
        (0, Some(ended)) => {
            let at = ended.finished_at.as_ref().map(|at| at.0.as_second());
            // The status has whole seconds.
            let written = 1 + if state.waiting.is_some() { WRITTEN_LATE } else { 0 };
            let until = at
                .filter(|at| may_run_again(pod) && *at > 0)
                .and_then(|at| (at + written).checked_mul(1_000_000_000));
            Run::Between { until }
        }
        (0, None) if final_phase && state.running.is_some() => Run::Silent { grace: grace_of(pod) },
        // The kubelet lost sight of it, and says that it is yet to be made.
        (0, None) if final_phase => Run::Forgotten,
        (0, None) => Run::Going,
        (1, _) if state.waiting.is_none() || state::waits_to_start(container) => Run::Previous,
        // The run that followed has ended too, and its log is both the current one and the previous one; or the node has lost this
        // one with its log.
        _ => Run::Removed,
    }
}

/// Seconds that the containers of an ending pod have to end.
fn grace_of(pod: &Pod) -> u64 {
    let usual = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let grace = pod.metadata.deletion_grace_period_seconds.or(usual);
    grace.and_then(|grace| u64::try_from(grace).ok()).unwrap_or(USUAL_GRACE)
}

/// When a run began, by its pod: nanoseconds since 1970, whole seconds.
pub(super) fn began(pod: &Pod, key: &StreamKey) -> Option<i64> {
    let container = container(pod, key)?;
    let state = container.state.as_ref();
    let running = || state?.running.as_ref()?.started_at.as_ref();
    let at = match container.restart_count - key.restart {
        0 => state::ended_run(container).map_or_else(running, |ended| ended.started_at.as_ref()),
        1 => container.last_state.as_ref()?.terminated.as_ref()?.started_at.as_ref(),
        _ => None,
    };
    at.and_then(|at| at.0.as_second().checked_mul(1_000_000_000))
}

fn container<'a>(pod: &'a Pod, key: &StreamKey) -> Option<&'a ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == key.container)
}

/// Whether the containers of a pod are started again when they end.
pub(super) fn may_run_again(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) != Some("Never")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_status_says_when_a_run_and_the_one_before_it_began() {
        let pod = json!({"spec": {"containers": []}, "status": {"containerStatuses": [{
            "name": "function", "restartCount": 2, "image": "", "imageID": "", "ready": true,
            "state": {"running": {"startedAt": "1970-01-01T00:00:09Z"}},
            "lastState": {"terminated": {"exitCode": 1, "startedAt": "1970-01-01T00:00:04Z"}},
        }]}});
        let pod = serde_json::from_value(pod).unwrap();
        for (restart, expected) in [(2, Some(9_000_000_000)), (1, Some(4_000_000_000)), (0, None)] {
            let key = StreamKey {
                pod_uid: "u".into(),
                container: "function".into(),
                restart,
            };
            assert_eq!(began(&pod, &key), expected, "{restart}");
        }
    }

    #[test]
    fn the_status_says_what_became_of_a_run() {
        let key = StreamKey {
            pod_uid: "u".into(),
            container: "function".into(),
            restart: 1,
        };
        let policy_of = |policy: &str, phase: &str, container: Option<(i32, Value)>| {
            let statuses: Vec<Value> = container
                .into_iter()
                .map(|(restarts, state)| {
                    json!({"name": "function", "restartCount": restarts, "state": state, "lastState": state["last"], "image": "",
                           "imageID": "", "ready": false, "containerID": state["id"].as_str().unwrap_or("docker://1")})
                })
                .collect();
            let pod = json!({"spec": {"restartPolicy": policy, "containers": []},
                             "status": {"phase": phase, "containerStatuses": statuses}});
            run_of(&serde_json::from_value(pod).unwrap(), &key)
        };
        let run = |phase: &str, container: Option<(i32, Value)>| policy_of("Always", phase, container);
        let (running, waiting) = (
            json!({"running": {}}),
            json!({"waiting": {"reason": "ContainerCreating"}}),
        );
        let ended =
            json!({"terminated": {"exitCode": 1, "containerID": "docker://1", "finishedAt": "1970-01-01T00:00:07Z"}});
        let made_up = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
        let last =
            json!({"terminated": {"exitCode": 1, "containerID": "docker://1", "finishedAt": "1970-01-01T00:00:07Z"}});
        let waits = json!({"waiting": {"reason": "CrashLoopBackOff"}, "last": last});
        let made = json!({"waiting": {"reason": "RunContainerError"}, "last": last, "id": "docker://2"});
        let between = |until| Run::Between { until };
        for (phase, container, expected) in [
            ("Running", Some((1, running.clone())), Run::Going),
            ("Running", Some((1, ended.clone())), between(Some(8_000_000_000))),
            ("Running", Some((1, waits.clone())), between(Some(13_000_000_000))),
            ("Running", Some((1, made.clone())), Run::Going),
            ("Running", Some((2, waits.clone())), Run::Removed),
            ("Running", Some((2, waiting.clone())), Run::Removed),
            ("Running", Some((2, made)), Run::Previous),
            ("Running", Some((2, running.clone())), Run::Previous),
            ("Running", Some((3, running.clone())), Run::Removed),
            ("Pending", Some((1, waiting.clone())), Run::Going),
            ("Failed", Some((1, ended.clone())), Run::Ended),
            ("Failed", Some((1, made_up)), Run::Forgotten),
            ("Failed", Some((1, running)), Run::Silent { grace: 30 }),
            ("Failed", Some((1, waiting)), Run::Forgotten),
            ("Failed", Some((1, waits)), Run::Ended),
            ("Failed", None, Run::Forgotten),
            ("Running", None, Run::Going),
        ] {
            assert_eq!(run(phase, container.clone()), expected, "{phase} {container:?}");
        }
        assert_eq!(
            policy_of("Never", "Running", Some((1, ended))),
            Run::Ended,
            "nothing follows a task"
        );
    }
}
